#!/bin/sh
# The guest's first process: mounts the host's root read-only with a layer of memory above it, and runs the job.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

while read -r module; do
  case $module in
    */dummy_hcd.ko*) insmod "$module" num=2 ;;
    *) insmod "$module" ;;
  esac || echo "init: cannot load $module"
done </modules/order

nine="trans=virtio,version=9p2000.L,msize=262144"
mount -t 9p -o "$nine,ro,cache=loose" root /host || echo "init: no root"
mount -t tmpfs -o mode=755 layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /new_root || echo "init: no overlay"

for folder in proc sys dev; do mount --move "/$folder" /new_root/$folder; done
# The host's /run tells of services that do not run here.
mount -t tmpfs -o mode=755 run /new_root/run
mkdir -p /new_root/run/share /new_root/dev/pts /new_root/dev/shm
mount -t 9p -o "$nine" share /new_root/run/share || echo "init: no share"
mount -t devpts devpts /new_root/dev/pts
mount -t tmpfs shm /new_root/dev/shm
mount -t configfs configfs /new_root/sys/kernel/config
ip link set lo up
hostname usb-guest
exec switch_root /new_root /bin/sh /run/share/job.sh
