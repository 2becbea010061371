#!/bin/sh
# The QEMU that runs the emulated host, carried into it as Godwit's peer.
here=/opt/qemu
exec $here/ld-linux-x86-64.so.2 --library-path $here/lib \
    $here/qemu-system-x86_64 -L $here/share "$@"
