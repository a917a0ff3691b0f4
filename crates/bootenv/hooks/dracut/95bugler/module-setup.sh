#!/bin/bash
# dracut.modules(7): a root over the network by Bugler's agent, where the kernel command line has
# bugler.root=. The address comes from dracut's own network module: the command line needs ip=dhcp and
# rd.neednet=1.

check() {
    [ -x "$dracutsysrootdir/usr/lib/bugler/bugler-agent" ] || return 1
    # Only where it is asked for: dracut --add bugler.
    return 255
}

depends() {
    echo network
}

installkernel() {
    instmods nbd aoe
}

install() {
    inst_simple /usr/lib/bugler/bugler-agent /sbin/bugler-agent
    inst_hook cmdline 95 "$moddir/parse-bugler.sh"
    inst_hook initqueue/settled 50 "$moddir/attach-bugler.sh"
    inst_hook mount 50 "$moddir/mount-bugler.sh"
}
