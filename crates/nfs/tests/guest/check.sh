# What torture.sh has left, seen by another guest.
[ "$(cat d*/h | wc -l)" = 150 ] &&
    [ "$(stat -c %s stream)" = 25165824 ] &&
    md5sum -c sum &&
    [ "$(cat a/b)" = "content of b" ] &&
    [ "$(cat a/t/u/v/w)" = deep ] &&
    [ -c null ] &&
    [ "$(readlink link)" = a/b ] &&
    [ "$(stat -c %u:%g:%a second)" = 1000:1001:751 ] &&
    echo "ALL THERE"
