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
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root || echo "init: no overlay"

for folder in proc sys dev; do mount --move /$folder /root/$folder; done
# The host's /run tells of services that do not run here.
mount -t tmpfs -o mode=755 run /root/run
mkdir -p /root/run/share /root/dev/pts /root/dev/shm
mount -t 9p -o "$nine" share /root/run/share || echo "init: no share"
mount -t devpts devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t configfs configfs /root/sys/kernel/config
ip link set lo up
hostname usb-guest
exec switch_root /root /bin/sh /run/share/job.sh
