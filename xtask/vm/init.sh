#!/bin/busybox sh
# The first process of the virtual machine: mounts, modules, then the guest script, then off. With `systemd` on the kernel's
# command line that one takes over (guest.service).
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root LANG=C.UTF-8
modules() { while read -r module; do insmod "/modules/$module" || echo "insmod $module failed"; done < /modules/order; }
mount -t proc proc /proc
if grep -qw systemd /proc/cmdline; then
    modules
    # It mounts the rest itself. Services have mounts of their own, for which the root must not be the kernel's first.
    mkdir /root/new
    mount -t tmpfs -o mode=755 root /root/new
    mkdir /root/new/proc /root/new/sys /root/new/dev /root/new/run /root/new/tmp
    cp -a /bin /etc /geophone /guest.sh /kubepods.sh /lib* /sbin /service.sh /tunnels.sh /usr /var /root/new
    umount /proc
    exec switch_root /root/new /lib/systemd/systemd
fi
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t securityfs securityfs /sys/kernel/security
modules
ip link set lo up
# Another serial line than the console carries the results, untouched by the kernel's own messages: `results=` on the kernel's
# command line, which the kernel leaves in the environment.
export results
stty -F "$results" raw -echo
# glibc's bash: Debian's busybox shell would prefer its own ip and ping.
/bin/bash /guest.sh
echo "guest.sh ended with $?"
sync
poweroff -f
