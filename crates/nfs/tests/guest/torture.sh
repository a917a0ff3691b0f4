# What a Linux kernel asks of a root filesystem. The tree is that of tests/common/base.rs. At a line
# KILL the server is killed and started again, while this goes on.
fails=0
ok() {
    if eval "$2"; then
        echo "ok $1"
    else
        echo "FAIL $1: $2"
        fails=$((fails + 1))
    fi
}
forget() { echo 3 >/proc/sys/vm/drop_caches; }

ok 'read below' '[ "$(cat a/b)" = "content of b" ]'
echo hello >new
ok 'create' '[ "$(cat new)" = hello ]'
mv new renamed
ok 'rename' '[ "$(cat renamed)" = hello ] && [ ! -e new ]'
ln renamed second
ok 'hard link' '[ "$(stat -c %h renamed)" = 2 ] && [ "$(stat -c %i renamed)" = "$(stat -c %i second)" ]'
ln e e2
ok 'hard link of a file below' '[ "$(stat -c %h e2)" = 2 ] && cmp e e2'
exec 5<a/c/d
rm a/c/d
forget
ok 'unlinked while open' '[ "$(cat <&5)" = "content of d" ]'
exec 5<&-
ok 'gone when closed' '[ -z "$(ls -A a/c)" ]'
exec 6>>appended
echo one >&6
rm appended
echo two >&6
exec 6>&-
ok 'written while unlinked' '[ ! -e appended ]'
ln -s a/b link
ok 'symbolic link' '[ "$(readlink link)" = a/b ] && [ "$(cat link)" = "content of b" ]'
ok 'symbolic link below' '[ "$(cat f)" = "content of b" ]'
mknod null c 1 3
ok 'character device' '[ -c null ] && echo x >null && [ "$(stat -c %t,%T null)" = 1,3 ]'
mknod big b 259 300000
ok 'block device' '[ -b big ] && [ "$(stat -c %t,%T big)" = 103,493e0 ]'
mkfifo pipe
(echo through >pipe &)
ok 'pipe' '[ "$(cat pipe)" = through ]'
chmod 4751 renamed
ok 'chmod' '[ "$(stat -c %a second)" = 4751 ]'
chown 1000:1001 renamed
ok 'chown takes setuid' '[ "$(stat -c %u:%g:%a second)" = 1000:1001:751 ]'
chmod 0600 a/b
ok 'chmod below' '[ "$(stat -c %a a/b)" = 600 ] && [ "$(cat a/b)" = "content of b" ]'
touch -d '2001-02-03 04:05:06' renamed
ok 'times' '[ "$(stat -c %Y second)" = 981173106 ]'
truncate -s 3 e2
ok 'truncate' '[ "$(cat e)" = eee ]'
truncate -s 10000 e
forget
ok 'grow' '[ "$(stat -c %s e2)" = 10000 ] && [ "$(tr -d "\000" <e)" = eee ]'
for i in $(seq 50); do echo "$i" >>log; done
forget
ok 'append' '[ "$(wc -l <log)" = 50 ] && [ "$(tail -n 1 log)" = 50 ]'
mkdir many
i=0
while [ $i -lt 700 ]; do
    : >many/file-with-a-longer-name-$i
    i=$((i + 1))
done
forget
ok 'many' '[ "$(ls many | wc -l)" = 700 ]'
find many -type f | while read -r name; do rm "$name"; done
ok 'removed while listed' '[ -z "$(ls -A many)" ]'
rmdir many
ok 'rmdir' '[ ! -e many ]'
mkdir -p t/u/v
echo deep >t/u/v/w
mv a moved
ok 'a folder below is renamed' '[ "$(cat moved/b)" = "content of b" ] && [ ! -e a ]'
mkdir a
ok 'a new folder under its name' '[ -z "$(ls -A a)" ]'
mv moved/b a/b
ok 'a file below is moved' '[ "$(cat a/b)" = "content of b" ]'
mv t a/
ok 'a folder is moved' '[ "$(cat a/t/u/v/w)" = deep ]'
ok 'not into itself' '! mv a a/t/u/ 2>/dev/null'
rm -r moved
ok 'rm -r' '[ ! -e moved ]'
dd if=/dev/urandom of=big1 bs=1M count=12 2>/dev/null
cp big1 big2
sync
forget
ok 'copy' 'cmp big1 big2'
dd if=/dev/zero of=big1 bs=4k seek=100 count=1 conv=notrunc,fsync 2>/dev/null
ok 'fsync' '[ "$(stat -c %s big1)" = 12582912 ]'
rm big2
md5sum big1 >sum
echo "KILL"
i=0
while [ $i -lt 150 ]; do
    mkdir d$i
    echo $i >d$i/f
    mv d$i/f d$i/g
    ln d$i/g d$i/h
    rm d$i/g
    i=$((i + 1))
done
ok 'names across a kill' '[ "$(cat d*/h | wc -l)" = 150 ] && [ "$(ls d* | grep -c ^g)" = 0 ]'
dd if=/dev/zero bs=1M count=24 2>/dev/null | tr '\000' x >stream &
sleep 1
echo "KILL"
wait
sync
forget
ok 'content across a kill' '[ "$(stat -c %s stream)" = 25165824 ] && [ -z "$(tr -d x <stream)" ]'
ok 'content from before' 'md5sum -c sum'
echo "FAILS $fails"
