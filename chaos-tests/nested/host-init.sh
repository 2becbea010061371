#!/bin/busybox sh
# Init of the emulated host (L1): loads modules, mounts the scratch disk, then
# obeys the test over the virtio port named "agent", one line per command:
#
#   test -> host   NUMBER SECONDS COMMAND...
#   host -> test   DONE NUMBER STATUS BYTES, newline, that many bytes of output
#
# Standard output is the serial console, which the test keeps as a log.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mkdir -p /proc /sys /dev /run /tmp /scratch /srv
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
dmesg -n 4

while read -r module; do
    insmod "/modules/$module" || echo "HOST: module $module does not load"
done </modules/order
ifconfig lo 127.0.0.1 up

# A host that the test forgot must not run for ever.
(sleep "$(sed -n 's/.*host.lifetime=\([0-9]*\).*/\1/p' /proc/cmdline)"; poweroff -f) &

mke2fs -F /dev/vda >/run/mke2fs.log 2>&1 && mount -t ext4 /dev/vda /scratch ||
    echo "HOST: no scratch disk: $(cat /run/mke2fs.log)"

port=
tries=0
while [ -z "$port" ] && [ "$tries" -lt 100 ]; do
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat "$name" 2>/dev/null)" = agent ] && port=/dev/$(basename "$(dirname "$name")")
    done
    [ -n "$port" ] || sleep 0.1
    tries=$((tries + 1))
done
echo "HOST: ready after $(cut -d' ' -f1 /proc/uptime) s, agent on ${port:-nothing}"

exec 3<>"$port" || poweroff -f
echo "READY $(cut -d' ' -f1 /proc/uptime)" >&3
while read -r number seconds command <&3; do
    timeout -s KILL "$seconds" sh -c "$command" </dev/null >/run/output 2>&1
    status=$?
    size=$(stat -c %s /run/output)
    echo "DONE $number $status $size" >&3
    head -c "$size" /run/output >&3
done
echo "HOST: the test is gone"
poweroff -f
