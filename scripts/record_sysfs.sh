#!/bin/bash
# Records what /sys and /proc say about a machine's CPUs, caches, NUMA nodes and memory, one line
# of a file per line of output, as PATH:TEXT. The tests unpack such recordings (tests/sysfs/).
#
#   scripts/record_sysfs.sh                        this machine
#   scripts/record_sysfs.sh -smp 64,… -numa …      a machine nobody has here: QEMU, without KVM,
#                                                  boots a guest of that shape and it is recorded
#
# For a guest, APPEND adds kernel arguments ("isolcpus=2,3"), OFFLINE names CPUs it takes offline
# before the recording ("5 21"), CPU is QEMU's CPU model. Needs qemu-system-x86, busybox-static,
# cpio and a Debian kernel, which is downloaded into CACHE and not installed.
set -euo pipefail

# Runs in busybox as well, hence one grep for all files: a process per file takes minutes in a
# guest without KVM. grep -H '' also keeps files that are one empty line; those missing are fine.
recorder='cd "${ROOT:-/}" && grep -sH "" \
  sys/devices/system/cpu/online sys/devices/system/cpu/offline sys/devices/system/cpu/present \
  sys/devices/system/cpu/possible sys/devices/system/cpu/isolated \
  sys/devices/system/cpu/cpu[0-9]*/online \
  sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list \
  sys/devices/system/cpu/cpu[0-9]*/topology/core_cpus_list \
  sys/devices/system/cpu/cpu[0-9]*/topology/core_id \
  sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id \
  sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq \
  sys/devices/system/cpu/cpu[0-9]*/cache/index[0-9]*/id \
  sys/devices/system/cpu/cpu[0-9]*/cache/index[0-9]*/level \
  sys/devices/system/cpu/cpu[0-9]*/cache/index[0-9]*/type \
  sys/devices/system/cpu/cpu[0-9]*/cache/index[0-9]*/shared_cpu_list \
  sys/devices/system/node/online sys/devices/system/node/has_cpu \
  sys/devices/system/node/has_memory sys/devices/system/node/node[0-9]*/cpulist \
  sys/devices/system/node/node[0-9]*/distance sys/devices/system/node/node[0-9]*/meminfo \
  proc/meminfo || true'

if [ $# -eq 0 ]; then
  sh -c "$recorder"
  exit
fi

for tool in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio dpkg-deb:dpkg; do
  command -v "${tool%%:*}" >/dev/null || {
    echo "record_sysfs: ${tool%%:*} is missing; apt-get install ${tool#*:}" >&2
    exit 1
  }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vmstack-kernel}
mkdir -p "$cache"
if ! ls "$cache"/boot/vmlinuz-* >/dev/null 2>&1; then
  package=$(apt-cache depends linux-image-cloud-amd64 |
    sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
  (cd "$work" && apt-get download -qq "$package" && dpkg-deb -x "$package"*.deb "$cache")
fi

mkdir -p "$work"/guest/{bin,proc,sys,dev}
cp "$(command -v busybox)" "$work/guest/bin/busybox"
cat >"$work/guest/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
exec >/dev/console 2>&1 </dev/console
for cpu in ${OFFLINE:-}; do echo 0 >/sys/devices/system/cpu/cpu\$cpu/online; done
dmesg -n 1
echo; echo RECORDING-BEGINS
$recorder
echo RECORDING-ENDS
poweroff -f
INIT
chmod +x "$work/guest/init"
(cd "$work/guest" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"

timeout "${TIMEOUT_S:-240}" qemu-system-x86_64 -machine pc,smm=off -nodefaults -no-user-config \
  -accel tcg,thread=multi -cpu "${CPU:-Broadwell-noTSX,check=off,l3-cache=on}" \
  -display none -serial stdio -no-reboot -kernel "$(ls "$cache"/boot/vmlinuz-* | head -1)" \
  -initrd "$work/initrd.gz" -append "console=ttyS0 quiet panic=-1 nowatchdog mitigations=off rcupdate.rcu_cpu_stall_suppress=1 ${APPEND:-}" "$@" \
  2>"$work/errors" </dev/null | tr -d '\r' >"$work/console" || true
if ! grep -q '^RECORDING-ENDS' "$work/console"; then
  echo "record_sysfs: the guest did not come so far; its last words:" >&2
  tail -n 5 "$work/errors" "$work/console" >&2
  exit 1
fi
sed '1,/^RECORDING-BEGINS/d; /^RECORDING-ENDS/,$d' "$work/console"
