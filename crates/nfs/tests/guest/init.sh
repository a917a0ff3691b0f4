#!/bin/busybox sh
# The first program of a guest: drivers, network, mount, then the script that the kernel command line
# names.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
    insmod "$module" || echo "FAIL insmod $module"
done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
for word in $(cat /proc/cmdline); do
    case $word in port=* | script=*) eval "$word" ;; esac
done
options=vers=3,nolock,proto=tcp,port=$port,mountport=$port,mountproto=tcp,addr=10.0.2.2
if mount -t nfs -o "$options" 10.0.2.2:/1 /mnt; then
    (cd /mnt && sh "/$script.sh")
    umount /mnt || echo "FAIL umount"
else
    echo "FAIL mount"
fi
echo "END"
poweroff -f
