#!/bin/busybox sh
# The guest's only process of its own: sets the machine up, makes each run of /runs and switches the machine off.
# /runs has a line for each run: NAME LIMIT_PERCENT LRU_GEN PAGE_CLUSTER PAUSE_MS COMMAND...; 100 % is no limit,
# and comes first: the others are percentages of what it used at most.
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t debugfs debug /sys/kernel/debug
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
echo never > /sys/kernel/mm/transparent_hugepage/enabled
# The options are null_blk's; other modules pass over what they do not know.
for module in /modules/*; do
    insmod "$module" gb=1 bs=4096 memory_backed=1 queue_mode=2 irqmode=2 completion_nsec="$(cat /latency_ns)" \
        submit_queues=1 hw_queue_depth=128
done
echo 0 > /sys/block/nullb0/queue/rotational
mkswap /dev/nullb0 > /dev/null
echo 0 > /proc/sys/vm/page-cluster
swapon /dev/nullb0
echo "kdtool-guest release=$(uname -r) lru_gen=$(cat /sys/kernel/mm/lru_gen/enabled 2> /dev/null)" \
    "swappiness=$(cat /proc/sys/vm/swappiness)"
while read -r name percent lru_gen page_cluster pause_ms command; do
    [ -f /sys/kernel/mm/lru_gen/enabled ] && echo "$lru_gen" > /sys/kernel/mm/lru_gen/enabled
    echo "$page_cluster" > /proc/sys/vm/page-cluster
    limit=max
    [ "$percent" = 100 ] || limit=$((peak * percent / 100 / 4096 * 4096))
    # With many reads in flight the kernel may find nothing to reclaim and kill (status 9): made again.
    for try in 1 2 3 4 5 6 7 8 9; do
        usleep "${pause_ms}000"
        line=$(limited "$limit" "$name" $command)
        case $line in *" exit=9 "*) echo "kdtool-killed $name" ;; *) break ;; esac
    done
    echo "$line limit=$limit"
    if [ "$percent" = 100 ]; then peak=${line##* peak=}; peak=${peak%% *}; fi
done < /runs
echo kdtool-done
poweroff -f
