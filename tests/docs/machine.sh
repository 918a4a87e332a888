# One machine's own view of files: machine.sh STAGE HOST_HOME HOME UID HOSTS PASSWD COMMAND…
#
# The folders $COVER and those below are emptied; the paths $SHARED (the installation, and the folder of the test's
# notes) are all that is shown of them. Runs as root in a mount namespace of its own; COMMAND as the machine's user.
set -e
stage=$1 host_home=$2 home=$3 uid=$4 hosts=$5 passwd=$6
shift 6
mount --make-rprivate /
mount -t tmpfs tmpfs "$stage"
number=0
for path in "$host_home" "$hosts" "$passwd" $SHARED; do
  number=$((number + 1))
  if [ -d "$path" ]; then mkdir "$stage/$number"; else touch "$stage/$number"; fi
  mount --bind "$path" "$stage/$number"
done
moved=$(mktemp -d /mnt/XXXXXX)
mount --move "$stage" "$moved"
for top in /home /root /tmp /var/tmp /srv /dev/shm $COVER; do
  [ ! -d "$top" ] || mount -t tmpfs -o mode=755 tmpfs "$top"
done
chmod 1777 /tmp /var/tmp /dev/shm
mkdir -p "$home"
mount --bind "$moved/1" "$home"
mount --bind "$moved/2" /etc/hosts
mount --bind "$moved/3" /etc/passwd
number=3
for path in $SHARED; do
  number=$((number + 1))
  mkdir -p "$path"
  mount --bind "$moved/$number" "$path"
done
umount --lazy "$moved"
rmdir "$moved"
cd "$home"
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs --bounding-set=-all --pdeathsig KILL \
  env -i HOME="$home" USER="${home##*/}" PATH="$PATH" TESTS="$TESTS" PYTHONPATH="$PYTHONPATH" LANG=C.UTF-8 \
  COLUMNS=110 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 \
  PYTHONDONTWRITEBYTECODE=1 "$@"
