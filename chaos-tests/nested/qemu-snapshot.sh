#!/bin/sh
# qemu-snapshot MONITOR FOLDER: writes the state of the guest whose QEMU listens
# on the fifos MONITOR.in and MONITOR.out to FOLDER/state, then ends that QEMU.
monitor=$1
folder=$2
mkdir "$folder" || exit 1
cat "$monitor.out" >"$folder/monitor" &
echo "migrate -d file:$folder/state" >"$monitor.in"
tries=0
# A command sent while QEMU still writes would be obeyed at once, `quit` too.
until grep -q postmigrate "$folder/monitor"; do
    tries=$((tries + 1))
    if [ $tries -gt 300 ]; then
        cat "$folder/monitor"
        kill $!
        exit 1
    fi
    sleep 0.2
    echo "info status" >"$monitor.in"
done
echo quit >"$monitor.in"
wait
