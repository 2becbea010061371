#!/bin/sh
# background NAME COMMAND: runs COMMAND in the emulated host beyond this call.
# Below /run/programs/NAME: input (a fifo that never ends), output, errors, pid,
# and, once it has ended, status.
folder=/run/programs/$1
rm -rf "$folder"
mkdir -p "$folder"
mkfifo "$folder/input"
: >"$folder/output"
: >"$folder/errors"
(
    sh -c "echo \$\$ >$folder/pid; exec $2" \
        <>"$folder/input" >>"$folder/output" 2>>"$folder/errors"
    echo $? >"$folder/status.new"
    mv "$folder/status.new" "$folder/status"
) </dev/null >/dev/null 2>&1 3>&- &
