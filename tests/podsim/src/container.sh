# A container: makes a root of this machine's programs, the image's own and the volumes, and becomes
# the command. Runs in new mount and host name namespaces, in the pod's network.
#
#   ROOT NAME ETC IMAGE USER GROUP GROUPS READ-ONLY  [SOURCE TARGET rw|ro]…  --  COMMAND…
set -eu
root=$1 name=$2 etc=$3 image=$4 user=$5 group=$6 groups=$7 read_only=$8
shift 8

echo "$name" >/proc/sys/kernel/hostname
mount --make-rprivate /
mount -t tmpfs -o mode=755 podsim "$root"
cd "$root"
mkdir -p usr proc dev etc tmp run root var/lib var/run old
chmod 1777 tmp
mount --rbind /usr usr
for folder in bin sbin lib lib64; do
  if [ -L "/$folder" ]; then
    ln -s "$(readlink "/$folder")" "$folder"
  elif [ -d "/$folder" ]; then
    mkdir "$folder"
    mount --bind "/$folder" "$folder"
  fi
done
mount --rbind /proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=755 podsim usr/local
mkdir usr/local/bin
for program in "$image"/*; do
  if [ -L "$program" ]; then
    cp -P "$program" usr/local/bin/
  else
    touch "usr/local/bin/${program##*/}"
    mount --bind "$program" "usr/local/bin/${program##*/}"
  fi
done
cp "$etc"/* etc/
cp /etc/ld.so.cache etc/

while [ "$1" != -- ]; do
  if [ -d "$1" ]; then
    mkdir -p "./$2"
  else
    mkdir -p "./${2%/*}"
    touch "./$2"
  fi
  mount --bind "$1" "./$2"
  if [ "$3" = ro ]; then mount -o remount,bind,ro "./$2"; fi
  shift 3
done
shift

pivot_root . old
umount -l /old
rmdir /old
if [ "$read_only" = yes ]; then mount -o remount,ro /; fi
cd /
if [ -n "$groups" ]; then groups="--groups=$groups"; else groups=--clear-groups; fi
exec setpriv --reuid "$user" --regid "$group" "$groups" \
  --no-new-privs --bounding-set=-all -- "$@"
