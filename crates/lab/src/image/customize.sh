#!/bin/sh
# Turns the root file system that mmdebstrap has made into one that a machine of the lab boots
# quickly, and writes the pieces of a disk image into a folder. mmdebstrap runs it as root of the
# new system, before it unmounts /proc and /sys there.
#
# customize.sh ROOT FOLDER STAMP UUID MIB
#   ROOT    the new root file system
#   FOLDER  gets root.ext4, boot.img, core.img and bootx64.efi
#   STAMP   what the system prints when it comes up, to tell one image from another
#   UUID    of the root file system
#   MIB     size of the root file system
set -eu
# Another user reads what is written here.
umask 022
root=$1 folder=$2 stamp=$3 uuid=$4 mib=$5
PATH=$PATH:/usr/sbin:/sbin

echo lab >"$root/etc/hostname"
echo "$stamp" >"$root/etc/bugler-lab-stamp"
echo "UUID=$uuid / ext4 rw,noatime 0 1" >"$root/etc/fstab"
# Each machine makes its own on its first boot.
: >"$root/etc/machine-id"
chroot "$root" passwd --quiet --delete root

cat >"$root/usr/local/sbin/bugler-lab-report" <<'END'
#!/bin/sh
# One line on the serial console: which disk, which machine, which image.
read -r stamp </etc/bugler-lab-stamp
read -r machine </sys/class/dmi/id/product_uuid
read -r uptime _ </proc/uptime
device=$(findmnt --noheadings --output SOURCE /)
echo "BUGLER-LAB: up from $device, machine $machine, image $stamp, uptime $uptime" >/dev/ttyS0
END
chmod 755 "$root/usr/local/sbin/bugler-lab-report"
cat >"$root/etc/systemd/system/bugler-lab-report.service" <<'END'
[Unit]
Description=Say on the serial console that this system is up
After=systemd-remount-fs.service local-fs.target
Before=serial-getty@ttyS0.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/bugler-lab-report

[Install]
WantedBy=multi-user.target
END
chroot "$root" systemctl --quiet enable bugler-lab-report.service
chroot "$root" systemctl --quiet set-default multi-user.target
# Of no use in a machine that lives for a minute, and slow under emulation.
chroot "$root" systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty@tty1.service systemd-networkd.service \
    systemd-pstore.service systemd-timesyncd.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service

# A small initramfs: the kernel has ext4 built in, and only the virtio disk is a module.
cat >"$root/etc/initramfs-tools/conf.d/bugler-lab" <<'END'
MODULES=list
BUSYBOX=n
COMPRESS=gzip
FSTYPE=ext4
END
printf 'virtio_pci\nvirtio_blk\next4\n' >"$root/etc/initramfs-tools/modules"
chroot "$root" update-initramfs -u

mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<END
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
set gfxpayload=text
menuentry "Debian" {
    linux /vmlinuz root=UUID=$uuid ro console=ttyS0,115200 quiet
    initrd /initrd.img
}
END
cat >"$root/tmp/early.cfg" <<END
search --no-floppy --fs-uuid --set=root $uuid
set prefix=(\$root)/boot/grub
END
common="part_gpt ext2 search search_fs_uuid normal linux serial terminal echo boot"
chroot "$root" grub-mkimage -O i386-pc -c /tmp/early.cfg -p /boot/grub \
    -o /tmp/core.img biosdisk $common
chroot "$root" grub-mkimage -O x86_64-efi -c /tmp/early.cfg -p /boot/grub \
    -o /tmp/bootx64.efi fat $common
mv "$root/tmp/core.img" "$root/tmp/bootx64.efi" "$folder/"
cp "$root/usr/lib/grub/i386-pc/boot.img" "$folder/"
rm "$root/tmp/early.cfg"

rm -rf "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/* "$root"/var/log/*.log

# What is mounted in the new system stays out of the image: look at it through a second mount.
mkdir "$folder/view"
mount --bind "$root" "$folder/view"
truncate --size="${mib}M" "$folder/root.ext4"
# Everything is initialised now, or the kernel would do it in the background of the first boot.
mke2fs -q -t ext4 -U "$uuid" -L root -E lazy_itable_init=0,lazy_journal_init=0 \
    -d "$folder/view" "$folder/root.ext4"
umount "$folder/view"
rmdir "$folder/view"
