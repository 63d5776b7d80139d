#!/bin/bash
# The first process of a lab's host, in namespaces of its own: its own home, a /tmp, /run and
# /dev/shm in memory, and an sshd. Everything ends with this process.
# usage: host.sh NAME STATE PATH_OF_COMMANDS [FOLDER …]   (folders that it sees as they are)
set -eu
name=$1 state=$2 commands=$3; shift 3
hostname "$name"
ip link set lo up
mount -t tmpfs -o size=64m tmpfs /run
mkdir -p /run/sshd /run/keep
n=0
for folder in "$@"; do
  n=$((n + 1)); mkdir "/run/keep/$n"; mount --bind "$folder" "/run/keep/$n"
done
# Its disk, which a loss of power does not empty.
mkdir -p "$state/$name.home"; mount --bind "$state/$name.home" "$HOME"; chmod 700 "$HOME"
mount -t tmpfs -o size=1g,mode=1777 tmpfs /tmp
mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
n=0
for folder in "$@"; do
  n=$((n + 1)); mkdir -p "$folder"; mount --bind "/run/keep/$n" "$folder"
done
echo "export PATH=$commands:\$PATH" > "$HOME/.bashrc"
echo '. ~/.bashrc' > "$HOME/.profile"
mkdir -p "$HOME/.ssh"
printf 'Host 10.77.0.*\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n' > "$HOME/.ssh/config"
if [ -f "$state/sshd.conf" ] && [ "$name" != launcher ]; then
  /usr/sbin/sshd -D -e -f "$state/sshd.conf" > "$state/$name.sshd.log" 2>&1 &
fi
echo ready > "$state/$name.ready"
trap 'exit 0' TERM
# As every first process must: collect whatever ends below it.
while :; do wait -n || sleep 1; done
