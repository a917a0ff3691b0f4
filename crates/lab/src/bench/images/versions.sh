#!/bin/bash
# Builds a Debian system as an ext4 filesystem, twice: as it was released, and after packages of it were
# upgraded in place, by apt on the mounted filesystem, so that it has aged as a machine's does. Needs
# root, a loop device and the network. Run in a mount namespace of its own.
#
# versions.sh FOLDER SUITE COUNT OPTIONS
#   FOLDER   has released.list and all.list, lines for apt's sources; gets before.raw, after.raw, upgraded
#   SUITE    the release's code name
#   COUNT    how many packages are upgraded; those that they need may come with them
#   OPTIONS  options of apt for mmdebstrap, one a line
set -euo pipefail
folder=$1 suite=$2 count=$3 options=$4
PATH=$PATH:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
root=$folder/root
mmdebstrap=(mmdebstrap --quiet --mode=root --variant=standard --format=directory
    --include=linux-image-amd64,grub-pc-bin,openssh-server,python3,curl,git,perl)
while read -r option; do
    [ -z "$option" ] || mmdebstrap+=("--aptopt=$option")
done <<<"$options"
"${mmdebstrap[@]}" "$suite" "$root" - <"$folder/released.list"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
truncate --size=2G "$folder/before.raw"
mke2fs -q -F -t ext4 -d "$root" "$folder/before.raw"
rm -rf "$root"

cp --sparse=always "$folder/before.raw" "$folder/after.raw"
mkdir "$root"
mount -o loop "$folder/after.raw" "$root"
trap 'umount --recursive "$root"' EXIT
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"
# No service of the image is started here.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cp "$root/etc/apt/sources.list" "$folder/sources.kept"
cp "$folder/all.list" "$root/etc/apt/sources.list"
printf '%s\n' "$options" | sed '/./s/$/;/' >"$root/etc/apt/apt.conf.d/99lab"
cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
chroot "$root" apt-get -qq update
mapfile -t names < <(chroot "$root" apt-get -s upgrade | sed -n 's/^Inst \([^ ]*\) .*/\1/p' |
    sort | head -n "$count")
chroot "$root" apt-get -qq -y -o Dpkg::Use-Pty=0 install --only-upgrade "${names[@]}" >"$folder/apt.log"
sed -n 's/^Unpacking \([^ ]*\) (.*) over (.*/\1/p' "$folder/apt.log" | sort -u >"$folder/upgraded"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root/usr/sbin/policy-rc.d" \
    "$root/etc/apt/apt.conf.d/99lab"
cp "$folder/sources.kept" "$root/etc/apt/sources.list"
trap - EXIT
umount --recursive "$root"
rmdir "$root"
e2fsck -f -n "$folder/after.raw" >/dev/null
