#!/bin/bash
# A real Slurm of one node with several slots, for the tests: munged, slurmctld and slurmd on this
# machine. Needs root and `apt-get install -y slurm-wlm munge`.
#
#   tests/builders/slurm.sh FOLDER [SLOTS]    start; FOLDER gets the configuration, state and logs
#   tests/builders/slurm.sh --stop FOLDER     end what was started there
#
# SLURM_PORT and the port after it are taken; default 16817.
set -euo pipefail

stop() {
    for daemon in slurmd slurmctld munged; do
        if [ -s "$1/$daemon.pid" ]; then
            kill "$(cat "$1/$daemon.pid")" 2>/dev/null || true
        fi
    done
}

if [ "$1" = --stop ]; then
    stop "$2"
    exit 0
fi

mkdir -p "$1"
folder=$(realpath "$1")
slots=${2:-4}
host=$(hostname -s)
mkdir -p "$folder/state" "$folder/spool"
chmod 755 "$folder"

# Munge: a key and a socket of our own, so that a Slurm of this machine is left alone.
dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 status=none
chmod 400 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"

memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
cat > "$folder/slurm.conf" <<CONF
ClusterName=salient
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${SLURM_PORT:-16817}
SlurmdPort=$((${SLURM_PORT:-16817} + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# More slots than the machine has cores: these jobs test the order of things, not speed.
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=5
InactiveLimit=0
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SchedulerType=sched/backfill
JobAcctGatherType=jobacct_gather/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$slots Sockets=1 CoresPerSocket=$slots ThreadsPerCore=1 RealMemory=$((memory / 2)) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF

export SLURM_CONF="$folder/slurm.conf"
slurmctld -i
slurmd
for _ in $(seq 100); do
    if sinfo --noheader -o %T 2>/dev/null | grep -q idle; then
        echo "SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.2
done
stop "$folder"
tail -n 20 "$folder"/*.log >&2
exit 1
