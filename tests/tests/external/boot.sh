# Boots the systemd of this machine, in namespaces of its own, over a copy of its root that is thrown away.
#
#   unshare --mount --pid --fork --kill-child --cgroup --ipc --uts --net bash boot.sh FOLDER SHARED
#
# FOLDER holds the copy, SHARED is /mnt there. There is no network but `lo`.
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
root=$1/root
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys" -o ro
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --bind "$2" "$root/mnt"
for folder in tmp dev; do mount -t tmpfs tmpfs "$root/$folder"; done
mount -t tmpfs tmpfs "$root/run" -o mode=755
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
# systemd, told that it is in a container, leaves this to whoever started that. Without it what it mounts for a service, such as the
# credentials, is mounted where nobody sees it, and the service finds a folder that it may not open.
mount --make-rshared "$root"
export container=squire-tests
exec chroot "$root" /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
