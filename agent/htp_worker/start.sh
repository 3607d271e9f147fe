#!/system/bin/sh
# Starts the worker on a phone, from the folder in which scripts/build_android_worker.sh gathered it:
#   start.sh --soc SM8650
# It listens at the abstract socket that has the name of the agent's: Android lets no program make others there.
here=$(cd "$(dirname "$0")" && pwd)
export LD_LIBRARY_PATH="$here:/vendor/lib64"  # ONNX Runtime and QNN; the driver libcdsprpc.so
export ADSP_LIBRARY_PATH="$here;/vendor/lib/rfsa/adsp;/vendor/dsp/cdsp"  # libQnnHtpV*Skel.so, which the HTP loads
exec "$here/mobifarm-htp-worker" --socket "@${MOBIFARM_HOME:-/data/local/tmp/mobifarm}/npu/worker.sock" "$@"
