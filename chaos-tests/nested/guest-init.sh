#!/bin/busybox sh
# Init of a nested guest (L2): does what the word after "l2=" on the kernel
# command line says, reporting in lines that begin "L2-". "l2net=" gives the
# first three numbers of its network, whose .1 is the host.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mkdir -p /proc /sys /dev /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
dmesg -n 1

while read -r module; do
    insmod "/modules/$module" || echo "L2-FAILED module $module"
done </modules/order

word() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p" | head -n 1; }
seconds() { cut -d' ' -f1 /proc/uptime; }
sum() { md5sum | cut -d' ' -f1; }

work=$(word l2)
net=$(word l2net)
disk=/dev/vda

# Kernel messages of level error and worse, and anything that smells of a bug.
report() {
    dmesg -r | grep -E '^<[0-3]>' | sed 's/^/L2-KERNEL-ERROR /'
    dmesg | grep -E 'BUG:|Oops|WARNING: CPU|Call Trace|soft lockup|rcu.*stall' |
        sed 's/^/L2-KERNEL-BUG /'
    echo "L2-KERNEL-CHECKED"
}

finish() {
    report
    echo "L2-DONE $work"
    sync
    poweroff -f
}

# 2 MiB written and read back past the page cache, 2 MiB through it. The host
# compares what is on its side of the disk with the sum printed here.
disk_io() {
    dd if=/dev/urandom of=/tmp/pattern bs=64k count=32 2>/dev/null
    want=$(sum </tmp/pattern)
    dd if=/tmp/pattern of=$disk bs=64k seek=16 oflag=direct conv=fsync 2>/dev/null ||
        echo "L2-FAILED disk write"
    dd if=/tmp/pattern of=$disk bs=4k seek=1024 conv=fsync 2>/dev/null ||
        echo "L2-FAILED disk buffered write"
    echo 3 >/proc/sys/vm/drop_caches
    direct=$(dd if=$disk bs=64k skip=16 count=32 iflag=direct 2>/dev/null | sum)
    buffered=$(dd if=$disk bs=4k skip=1024 count=512 2>/dev/null | sum)
    if [ "$direct" = "$want" ] && [ "$buffered" = "$want" ]; then
        echo "L2-DISK ok sum=$want"
    else
        echo "L2-FAILED disk wrote $want, read $direct direct, $buffered buffered"
    fi
}

# ICMP, UDP (answered by ICMP), TCP both ways with checksums at both ends.
net_io() {
    peer=$net.1
    [ -d /sys/class/net/eth0 ] || echo "L2-FAILED no network device"
    ip addr add "$net.2/24" dev eth0 2>/dev/null
    ip link set eth0 up
    ping -c 3 -W 10 -i 0.2 -s 1400 "$peer" >/tmp/ping 2>&1 ||
        echo "L2-FAILED ping $(tail -n 2 /tmp/ping | tr '\n' ' ')"
    traceroute -n -q 1 -m 1 -w 10 "$peer" 2>&1 | grep -q "1  $peer" ||
        echo "L2-FAILED udp"
    dd if=/dev/urandom of=/tmp/upload bs=64k count=32 2>/dev/null
    want=$(sum </tmp/upload)
    there=$(nc -w 30 "$peer" 7001 </tmp/upload | cut -d' ' -f1)
    [ "$want" = "$there" ] || echo "L2-FAILED upload $want arrived as $there"
    # Not `wget -T`: it crashes in this busybox.
    want=$(timeout 30 wget -O - "http://$peer:7002/blob.md5" 2>/tmp/wget)
    here=$(timeout 30 wget -O - "http://$peer:7002/blob" 2>>/tmp/wget | sum)
    [ -n "$want" ] && [ "$want" = "$here" ] ||
        echo "L2-FAILED download $want arrived as $here: $(tr '\n' ' ' </tmp/wget)"
    echo "L2-NET checked"
}

# The kernel's generator draws from the device, so reading proves that it answers.
rng_io() {
    bytes=$(timeout 20 dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c)
    [ "$bytes" = 16 ] || echo "L2-FAILED $bytes bytes from the random device"
}

work_io() {
    disk_io
    net_io
    rng_io
    finish
}

work_shell() {
    echo "L2-SHELL"
    setsid cttyhack sh
    finish
}

work_reboot() {
    if [ "$(dd if=$disk bs=512 count=1 iflag=direct 2>/dev/null | head -c 8)" = REBOOTED ]; then
        echo "L2-REBOOTED"
        finish
    fi
    printf REBOOTED | dd of=$disk bs=512 conv=sync,fsync 2>/dev/null
    echo "L2-REBOOTING"
    reboot -f
}

# Counts about five times a second, on each processor in turn, checking a file in
# memory every time; a word typed on the console is obeyed between two counts.
work_counter() {
    cpus=$(nproc)
    dd if=/dev/urandom of=/tmp/memory bs=64k count=16 2>/dev/null
    memory_sum=$(sum </tmp/memory)
    while read -r typed; do
        echo "$typed" >/tmp/typed.new
        mv /tmp/typed.new /tmp/typed
    done </dev/console &
    count=0
    while :; do
        count=$((count + 1))
        cpu=$((count % cpus))
        memory=ok
        now=$(taskset -c $cpu md5sum </tmp/memory | cut -d' ' -f1)
        [ "$now" = "$memory_sum" ] || memory=WRONG
        up=$(taskset -c $cpu cat /proc/uptime | cut -d' ' -f1)
        echo "L2-COUNT $count uptime=$up wall=$(date +%s) cpu=$cpu memory=$memory"
        if [ -f /tmp/typed ]; then
            typed=$(cat /tmp/typed)
            rm /tmp/typed
            case $typed in
            io) disk_io; net_io ;;
            poweroff) finish ;;
            esac
        fi
        sleep 0.2
    done
}

# A process that writes memory and checks what it wrote, and a TCP connection
# that both ends check, until told "finish" on the console. From "baseline" on
# the kernel has nothing to warn of.
work_load() {
    ip addr add "$net.2/24" dev eth0
    ip link set eth0 up
    clock=/sys/devices/system/clocksource/clocksource0/current_clocksource
    /opt/godwit/numbered connect "$net.1:7003" /tmp/stop >/tmp/numbers 2>&1 &
    numbered=$!
    stress-ng --temp-path /tmp --vm 1 --vm-bytes 32M --vm-keep --verify \
        --timeout 0 >/tmp/stress 2>&1 &
    stress=$!
    echo "L2-LOADED"
    first=1
    while read -r typed; do
        case $typed in
        baseline)
            first=$(($(dmesg | wc -l) + 1))
            before=$(cat $clock)
            echo "L2-BASELINE lines=$first clock=$before"
            ;;
        state)
            for pid in $numbered $stress; do
                kill -0 "$pid" 2>/dev/null || echo "L2-FAILED process $pid has ended"
            done
            echo "L2-STATE $(tail -n 1 /tmp/numbers)"
            ;;
        finish)
            touch /tmp/stop
            wait $numbered
            echo "L2-NUMBERS status=$? $(tail -n 1 /tmp/numbers)"
            kill -INT $stress
            wait $stress
            echo "L2-STRESS status=$? $(tail -n 1 /tmp/stress)"
            grep -iE 'fail|error|corrupt' /tmp/stress | sed 's/^/L2-FAILED /'
            # How late a check of the clocks or a timer came says how slow this machine is.
            dmesg -r | tail -n "+$first" | grep -E '^<[0-4]>|clocksource' |
                grep -vE 'clocksource: Long readout interval|hrtimer: interrupt took' |
                sed 's/^/L2-KERNEL-BUG since the moves /'
            [ "$(cat $clock)" = "$before" ] || echo "L2-FAILED clock source is $(cat $clock)"
            finish
            ;;
        esac
    done </dev/console
}

echo "L2-READY cpus=$(nproc) uptime=$(seconds) kernel=$(uname -r)"
echo "L2-DEVICES $(for device in /sys/bus/virtio/devices/*/driver; do
    basename "$(readlink "$device")"
done | tr '\n' ' ')"
case $work in
io) work_io ;;
shell) work_shell ;;
reboot) work_reboot ;;
counter) work_counter ;;
load) work_load ;;
poweroff) finish ;;
*) echo "L2-FAILED unknown work '$work'"; poweroff -f ;;
esac
