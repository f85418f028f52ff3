# Tunnels of the kernel's own kinds between here, where the agent is, and the namespace `far`. The way leads through the
# namespace `way`. What far's own device loses is behind the tunnel device and before the agent; what `way` doubles and
# delays nobody at either end has seen. Sourced by guest.sh.

# The kinds that are told apart by nft: by name, how.
declare -A match=(
    [vxlan]="udp dport 4789" [geneve]="udp dport 6081" [geneve_options]="udp dport 6082" [gre]="ip protocol 47"
    [ipip]="ip protocol 4" [sit]="ip protocol 41" [wireguard]="udp dport 51820" [esp]="ip protocol 50"
    [esp_udp]="udp dport 4500"
)
# Those with sequence numbers, and their far ends' way to here.
declare -A sequenced=([gre]=10.90.4.1 [wireguard]=10.90.7.1 [esp]=10.90.8.1 [esp_udp]=10.90.9.1)

far() { ip netns exec far "$@"; }

# What was seen is reported after the agent's own sections: keep NAME COMMAND...
keep() { local name=$1; shift; mkdir -p /tmp/kept; "$@" > "/tmp/kept/$name"; }
kept() { for file in /tmp/kept/*; do section "${file##*/}" cat "$file"; done; }

underlay() {
    local n
    ip netns add way && ip netns add far
    # Nothing talks by itself: no IPv6 but where it is asked for, no ARP.
    echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
    far sh -c 'echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6'
    ip netns exec way sh -c 'echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; echo 1 > /proc/sys/net/ipv4/ip_forward'
    ip link add u0 address 02:00:00:00:00:01 type veth peer name w0 address 02:00:00:00:00:02 netns way
    ip -n far link add f0 address 02:00:00:00:00:04 type veth peer name w1 address 02:00:00:00:00:03 netns way
    ip addr add 10.96.0.1/24 dev u0
    ip -n way addr add 10.96.0.2/24 dev w0
    ip -n way addr add 10.97.0.1/24 dev w1
    ip -n far addr add 10.97.0.2/24 dev f0
    ip link set u0 up
    ip -n way link set w0 up
    ip -n way link set w1 up
    ip -n far link set lo up
    ip -n far link set f0 up
    ip neigh add 10.96.0.2 lladdr 02:00:00:00:00:02 dev u0
    ip -n way neigh add 10.96.0.1 lladdr 02:00:00:00:00:01 dev w0
    ip -n way neigh add 10.97.0.2 lladdr 02:00:00:00:00:04 dev w1
    ip -n far neigh add 10.97.0.1 lladdr 02:00:00:00:00:03 dev f0
    ip route add 10.97.0.0/24 via 10.96.0.2
    ip -n far route add 10.96.0.0/24 via 10.97.0.1
    # A burst is to be lost by netem alone.
    echo 100000 > /proc/sys/net/core/netdev_max_backlog
    # Who has counted independently, and who takes what is sent to nobody.
    {
        echo 'table inet sink { chain in { type filter hook input priority 0; udp dport 9 drop; }; }'
        echo 'table netdev truth { chain receive { type filter hook ingress device "u0" priority 0;'
        for n in "${!match[@]}"; do echo "${match[$n]} counter comment \"$n\";"; done
        echo '}; chain transmit { type filter hook egress device "u0" priority 0;'
        for n in "${!match[@]}"; do echo "${match[$n]} counter comment \"$n\";"; done
        echo '}; }'
    } | nft -f -
}

# mouths DEVICE N LINK...: a device at both ends, with 10.90.N.1 here and 10.90.N.2 there; SIDE is that 1 or 2.
mouths() {
    local device=$1 n=$2 link; shift 2
    link=${*//LOCAL/10.96.0.1}; link=${link//REMOTE/10.97.0.2}
    ip link add "$device" ${link//SIDE/1}
    ip addr add "10.90.$n.1/24" dev "$device"
    ip link set "$device" up
    link=${*//LOCAL/10.97.0.2}; link=${link//REMOTE/10.96.0.1}
    ip -n far link add "$device" ${link//SIDE/2}
    ip -n far addr add "10.90.$n.2/24" dev "$device"
    ip -n far link set "$device" up
}

# A VXLAN to the next machine only, over a VLAN in a VLAN: nft does not look behind two tags.
tagged() {
    ip link add link u0 name outer type vlan proto 802.1ad id 5
    ip link add link outer name inner type vlan id 6
    ip -n way link add link w0 name outer type vlan proto 802.1ad id 5
    ip -n way link add link outer name inner type vlan id 6
    ip addr add 10.95.0.1/24 dev inner
    ip -n way addr add 10.95.0.2/24 dev inner
    ip link set outer up; ip link set inner up
    ip -n way link set outer up; ip -n way link set inner up
    ip link add vxlan2 type vxlan id 44 local 10.95.0.1 remote 10.95.0.2 dstport 4789 dev inner
    ip -n way link add vxlan2 type vxlan id 44 local 10.95.0.2 remote 10.95.0.1 dstport 4789 dev inner
    ip addr add 10.90.10.1/24 dev vxlan2
    ip -n way addr add 10.90.10.2/24 dev vxlan2
    ip link set vxlan2 up
    ip -n way link set vxlan2 up
}

wireguard() {
    umask 077
    wg genkey > /tmp/here; wg genkey > /tmp/there
    mouths wg1 7 type wireguard
    wg set wg1 private-key /tmp/here listen-port 51820 \
        peer "$(wg pubkey < /tmp/there)" allowed-ips 10.90.7.2/32 endpoint 10.97.0.2:51820
    far wg set wg1 private-key /tmp/there listen-port 51820 \
        peer "$(wg pubkey < /tmp/here)" allowed-ips 10.90.7.1/32 endpoint 10.96.0.1:51820
}

# ipsec N ENCAPSULATION...: states and policies, no device.
ipsec() {
    local n=$1 key=0x000102030405060708090a0b0c0d0e0f run; shift
    for run in "ip" "ip -n far"; do
        $run xfrm state add src 10.96.0.1 dst 10.97.0.2 proto esp spi "0x100$n" reqid "$n" mode tunnel replay-window 32 \
            enc 'cbc(aes)' $key auth 'hmac(sha256)' $key "$@"
        $run xfrm state add src 10.97.0.2 dst 10.96.0.1 proto esp spi "0x200$n" reqid "$n" mode tunnel replay-window 32 \
            enc 'cbc(aes)' $key auth 'hmac(sha256)' $key "$@"
    done
    set -- proto esp reqid "$n" mode tunnel
    ip xfrm policy add src "10.90.$n.1" dst "10.90.$n.2" dir out tmpl src 10.96.0.1 dst 10.97.0.2 "$@"
    ip xfrm policy add src "10.90.$n.2" dst "10.90.$n.1" dir in tmpl src 10.97.0.2 dst 10.96.0.1 "$@"
    ip -n far xfrm policy add src "10.90.$n.2" dst "10.90.$n.1" dir out tmpl src 10.97.0.2 dst 10.96.0.1 "$@"
    ip -n far xfrm policy add src "10.90.$n.1" dst "10.90.$n.2" dir in tmpl src 10.96.0.1 dst 10.97.0.2 "$@"
    ip addr add "10.90.$n.1/32" dev lo
    ip -n far addr add "10.90.$n.2/32" dev lo
    ip route add "10.90.$n.2" via 10.96.0.2 src "10.90.$n.1"
    ip -n far route add "10.90.$n.1" via 10.97.0.1 src "10.90.$n.2"
}

# The socket of ESP in UDP: UDP_ENCAP = UDP_ENCAP_ESPINUDP.
natt='socket(S, 2, 2, 17) && setsockopt(S, 17, 100, pack("i", 2)) && bind(S, pack("S n N x8", 2, 4500, 0)) or die $!; sleep'

tunnels() {
    underlay
    mouths vxlan1 1 type vxlan id 41 local LOCAL remote REMOTE dstport 4789
    tagged
    mouths geneve1 2 type geneve id 42 remote REMOTE
    mouths geneve2 3 address 02:00:00:00:03:0SIDE type geneve external dstport 6082
    mouths gre1 4 type gre local LOCAL remote REMOTE seq
    mouths ipip1 5 type ipip local LOCAL remote REMOTE
    mouths sit1 6 type sit local LOCAL remote REMOTE
    wireguard
    ipsec 8
    ipsec 9 encap espinudp 4500 4500 0.0.0.0
    export LC_ALL=C
    perl -e "$natt" & natt_here=$!
    far perl -e "$natt" & natt_there=$!
    # The options are the route's.
    ip neigh add 10.90.3.2 lladdr 02:00:00:00:03:02 dev geneve2
    ip -n far neigh add 10.90.3.1 lladdr 02:00:00:00:03:01 dev geneve2
    ip route add 10.90.3.2 encap ip id 43 ttl 64 dst 10.97.0.2 geneve_opts 0102:01:0011223344556677 dev geneve2
    ip -n far route add 10.90.3.1 encap ip id 43 ttl 64 dst 10.96.0.1 geneve_opts 0102:01:0011223344556677 dev geneve2
    echo 0 > /proc/sys/net/ipv6/conf/sit1/disable_ipv6
    far sh -c 'echo 0 > /proc/sys/net/ipv6/conf/sit1/disable_ipv6'
    ip addr add fd90:6::1/64 dev sit1 nodad
    ip -n far addr add fd90:6::2/64 dev sit1 nodad
}

# What the agent says, and what nft and the devices have counted, at a moment when nothing passes.
reading() {
    local before
    for _ in 1 2 3 4 5; do
        before=$(nft list table netdev truth)
        sleep 3.2
        keep "$1_metrics" wget -q -O - http://127.0.0.1:9779/metrics
        keep "$1_nft" nft list table netdev truth
        keep "$1_links" ip -j -s link show
        # A neighbour that is asked for again, between two of these, is counted by one of them.
        [ "$before" = "$(nft list table netdev truth)" ] && return
    done
    echo "it is never quiet: $1"
}

# send ADDRESS COUNT: datagrams from far, at a pace that no queue but netem's overflows at.
send() {
    far perl -e '
        my ($to, $count) = @ARGV;
        socket(S, 2, 2, 17) && connect(S, pack("S n C4 x8", 2, 9, split(/\./, $to))) or die $!;
        for (1 .. $count) {
            syswrite(S, "x" x 200) or die $!;
            select(undef, undef, undef, 0.01) unless $_ % 100;
        }' "$1" "$2"
}

# lossy RATE COUNT WAY...: so many datagrams by each kind, with losses behind the sender and what else the way does.
lossy() {
    local rate=$1 count=$2 kind; shift 2
    for kind in "${!sequenced[@]}"; do
        tc -n far qdisc add dev f0 root netem limit 100000 loss "$rate%"
        tc -n way qdisc add dev w0 root netem limit 100000 "$@"
        send "${sequenced[$kind]}" "$count"
        sleep 0.3
        keep "loss_${rate}_${kind}_sent" tc -n far -j -s qdisc show dev f0
        keep "loss_${rate}_${kind}_way" tc -n way -j -s qdisc show dev w0
        tc -n far qdisc del dev f0 root
        tc -n way qdisc del dev w0 root
        # What is lost at the end shows when something comes after it.
        send "${sequenced[$kind]}" 3
    done
    reading "loss_$rate"
}

traffic() {
    local address device pings=()
    for address in 10.90.{1,2,3,4,5,7,8,9,10}.2 fd90:6::2; do
        ping -q -i 0.02 -c 20 -s 300 "$address" &
        pings+=($!)
    done
    wait "${pings[@]}"
    reading clean
    # Neighbours and routers are asked for now and then, which netem would count.
    ip link set outer down
    ip -n way link set outer down
    for device in vxlan1 geneve1 sit1; do
        ip link set "$device" down
        ip -n far link set "$device" down
    done
    lossy 0 500 delay 0
    lossy 0.1 3000 delay 4ms reorder 2% duplicate 1%
    lossy 1 3000 delay 4ms reorder 2% duplicate 1%
    lossy 10 1000 delay 4ms reorder 2% duplicate 1%
}

tunnels_end() {
    kill $natt_here $natt_there
    ip netns del far
    ip netns del way
}
