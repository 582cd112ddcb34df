#!/usr/bin/env python3
"""What a guest must show: checks.py full|bare FOLDER QEMU-COMMAND...

A full guest has IPv6, netfilter and, where Debian has it, the program nft; a bare one has none of them.
Each check prints `ok` or `not ok`; the last line is `N passed, N failed`. The guest's console is in FOLDER/console.log.
"""
import json
import os
import re
import statistics
import sys
import threading
import time

from machine import Dead, Machine
from world import World

FAR = '203.0.113.10'
SWITCH = r"IPv4 (?:now )?leaves by '(\w+)'[^(]*\(decided (\S+ \S+), committed (\S+ \S+), verified (\S+ \S+) after"
CUTS = 10
CONFIG = '''
config interface 'wan'
	option device 'w0'
	option metric '10'
	option hold_down '1s'
	option damping '0'
	list track_ip '203.0.113.1'
	list track_ip '203.0.113.2'
	list track_ip '203.0.113.3'
config interface 'wanb'
	option device 'w1'
	option metric '20'
	option hold_down '1s'
	option damping '0'
	list track_ip '203.0.113.1'
	list track_ip '203.0.113.2'
	list track_ip '203.0.113.3'
config interface 'wanc'
	option device 'w2'
	option metric '30'
	list track_ip '203.0.113.1'
	list track_ip '203.0.113.2'
	list track_ip '203.0.113.3'
config interface 'wand'
	option device 'w3'
	option metric '40'
	list track_ip '203.0.113.1'
	list track_ip '203.0.113.2'
	list track_ip '203.0.113.3'
'''


class Failed(Exception):
    """A check's own words about what is wrong."""


def micros(text):
    """'13 ms' in microseconds, as the daemon writes durations."""
    number, unit = text.split()
    return float(number) * {'us': 1, 'ms': 1000, 's': 1_000_000}[unit]


class Guest:
    def __init__(self, kind, folder, command):
        self.bare = kind == 'bare'
        # virtio: its driver tells the carrier as soon as the monitor cuts it. e1000's looks every two seconds.
        self.worlds = []
        for number in (0, 1):
            path = os.path.join(folder, f'card{number}')
            if os.path.exists(path):
                os.unlink(path)
            self.worlds.append(World(path, number))
            command += ['-netdev', f'stream,id=card{number},server=off,addr.type=unix,addr.path={path}',
                        '-device', f'virtio-net-pci,romfile=,netdev=card{number},mac=02:00:00:00:00:0{number}']
        self.machine = Machine([*command, '-nic', 'none'], folder)
        self.facts = {}

    def run(self, line, patience=60):
        status, printed = self.machine.shell(line, patience)
        if status != 0:
            raise Failed(f'{line}: status {status}: {printed.strip()}')
        return printed

    def until(self, what, patience, test):
        """Asks until `test` says something true; its last answer is in the complaint."""
        end = time.monotonic() + patience
        while True:
            answer = test()
            if answer:
                return answer
            if time.monotonic() > end:
                raise Failed(f'not within {patience} s: {what}')
            time.sleep(0.1)

    def leaves_by(self):
        _, printed = self.machine.shell(f'ip route get {FAR}')
        found = re.search(r' dev (\w+)', printed)
        return found.group(1) if found else None

    def switches(self):
        """All switches that the daemon has told, oldest first: (uplink, decided, committed, verified), microseconds."""
        told = re.findall(SWITCH, self.run('cat /tmp/log/linkwatch'))
        return [(uplink, *(micros(text) for text in times)) for uplink, *times in told]

    def start(self, words=''):
        self.run(f'linkwatch run -c /etc/config/linkwatch {words} 2>>/tmp/log/linkwatch & echo $! >/tmp/pid')
        return self.run('cat /tmp/pid').strip()

    def stop(self, signal='TERM'):
        self.run(f'kill -{signal} $(cat /tmp/pid); while [ -d /proc/$(cat /tmp/pid) ]; do usleep 50000; done; true')

    def has_nft(self):
        return self.machine.shell('which nft >/dev/null')[0] == 0

    def files(self):
        return {name for name in self.run('find / -xdev -type f').splitlines() if not name.startswith(('/proc', '/sys', '/tmp'))}

    def plan(self, words=''):
        """What `linkwatch plan` would change, without the table of nft: the guest has no nft program to load it."""
        printed = self.run(f'linkwatch plan {words} 2>/dev/null')
        return re.sub(r"nft -f - <<'END'\n.*?\nEND\n", '', printed, flags=re.S)

    def news(self):
        """What `plan` would change about the uplinks that have a cable. About the others it knows less than the daemon,
        whose probes have told it that they are dead."""
        return [line for line in self.plan().splitlines() if not re.search(r' dev w[23]\b', line)]

    def ours(self):
        """Everything of ours in the kernel, a line each: what would go if nothing was configured, and the rules."""
        return self.plan('-c /tmp/nothing') + self.run('ip rule')


def boots(guest):
    """the guest boots"""
    match, _ = guest.machine.wait_for(r'guest is up: ([^,]*), (\S+) s', 240)
    guest.facts['kernel'] = match.group(1)
    guest.run(': >/tmp/nothing')
    if not guest.bare:
        guest.run('for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 >$f; done')
    year = guest.run('date +%Y').strip()
    if year != '1970':
        raise Failed(f'it is {year}')
    _, modules = guest.machine.shell('cat /modules/order | tr "\\n" " "')
    for number, address in ((0, '192.0.2'), (1, '198.51.100')):
        name = f'w{number}'
        guest.run(f'for d in /sys/class/net/*; do [ "$(cat $d/address)" != 02:00:00:00:00:0{number} ] || n=${{d##*/}}; done; '
                  f'ip link set $n name {name}; ip link set {name} up')
        guest.run(f'ip addr add {address}.2/24 dev {name}')
        guest.until(f'{name} has carrier', 30, lambda name=name: '1' in guest.machine.shell(f'cat /sys/class/net/{name}/carrier')[1])
        guest.run(f'ip route add default via {address}.1 dev {name} metric {number + 1}')
        if not guest.bare:
            guest.run(f'ip addr add 2001:db8:{number}::2/64 dev {name}')
            guest.run(f'ip -6 route add default via fe80::1 dev {name} metric {number + 1}')
    for number in (2, 3):
        guest.run(f'ip link add w{number} type dummy && ip link set w{number} up && ip addr add 10.0.{number}.2/24 dev w{number} '
                  f'&& ip route add default via 10.0.{number}.1 dev w{number} metric {number + 1}')
    return f'{guest.facts["kernel"]}, {match.group(2)} s; modules: {modules.strip() or "none"}'


def package_installs(guest):
    """the package installs, and its own configuration is fine"""
    guest.facts['files'] = guest.files()
    guest.run('package add /tmp-linkwatch.ipk')
    version = guest.run('linkwatch --version')
    guest.run('linkwatch check')
    mode = guest.run('ls -l /etc/config/linkwatch /usr/sbin/linkwatch')
    if '-rw-------' not in mode or '-rwxr-xr-x' not in mode:
        raise Failed(mode)
    return version.splitlines()[0]


def configure(guest):
    """an upgrade keeps the changed configuration"""
    for line in CONFIG.strip().splitlines():
        escaped = line.replace('\t', ' ').replace("'", "'\\''")
        guest.run(f"echo '{escaped}' >>/tmp/config")
    guest.run('mv /tmp/config /etc/config/linkwatch; md5sum /etc/config/linkwatch >/tmp/sum')
    guest.run('package add /tmp-linkwatch.ipk && md5sum -c /tmp/sum && test -e /etc/config/linkwatch-opkg')
    guest.run('linkwatch check')
    return 'the new example lies beside it'


def plan_changes_nothing(guest):
    """plan tells what it would do and does not do it"""
    before = guest.ours()
    planned = guest.plan()
    if len(planned.splitlines()) < 10 or guest.ours() != before:
        raise Failed(planned)
    return f'{len(planned.splitlines())} changes'


def takes_over(guest):
    """traffic leaves by the best uplink"""
    guest.start()
    guest.until('a switch is told', 60, lambda: guest.switches())
    if guest.leaves_by() != 'w0':
        raise Failed(f'leaves by {guest.leaves_by()}')
    sent = len([e for e in guest.worlds[0].echoes if e[1] == FAR])
    guest.run(f'ping -c 3 -W 5 {FAR}')
    came = len([e for e in guest.worlds[0].echoes if e[1] == FAR]) - sent
    if came != 3:
        raise Failed(f'{came} of 3 packets came by the first cable')
    if guest.bare:
        return 'IPv4'
    guest.run('ping -6 -c 1 -W 5 2001:db8:ffff::1')
    return 'IPv4 and IPv6'


def status_tells(guest):
    """status tells how each uplink is, who carries the traffic, and what this kernel lacks"""
    def told():
        status = json.loads(guest.run('linkwatch status --json'))
        up = {name: uplink['up'] for name, uplink in status['uplinks'].items()}
        # The two without a cable have addresses and routes but nobody who answers.
        return up == {'wan': True, 'wanb': True, 'wanc': False, 'wand': False} and status
    status = guest.until('two uplinks are up and two are not', 90, told)
    if not 0 < status['uptime'] < 600:
        raise Failed(f'running for {status["uptime"]} s')
    missing = set(status['missing'])
    screen = guest.run('linkwatch status')
    for word in ('wan', 'wanb', 'wanc', 'wand', *missing):
        if word not in screen:
            raise Failed(f'{word} is not in: {screen}')
    lacks = {'ipv6'} if guest.bare else set()
    if missing != lacks:
        raise Failed(f'missing: {missing}, not {lacks}')
    return f'missing here: {", ".join(sorted(missing)) or "nothing"}'


def flows_are_pinned(guest):
    """nft's table is in place, and a packet carries its uplink's mark"""
    if not guest.has_nft():
        return 'skipped: Debian has no nft for this machine'
    guest.until('the table is there', 60, lambda: guest.machine.shell('nft list table inet linkwatch >/dev/null')[0] == 0)
    table = guest.run('nft list table inet linkwatch')
    if 'ct mark set' not in table:
        raise Failed(table)
    return f'{len(table.splitlines())} lines'


def plan_is_empty_when_running(guest):
    """with the daemon running there is nothing left to plan"""
    guest.until('the plan is empty', 30, lambda: not guest.news())


def carrier_cut(guest):
    """a cut cable moves the traffic, and it comes back"""
    marks = [len(world.echoes) for world in guest.worlds]
    stop = threading.Event()
    guest.run(f'ping -i 0.1 -W 1 {FAR} >/tmp/ping 2>&1 & echo $! >/tmp/pinger')
    guest.until('packets flow', 30, lambda: len(guest.worlds[0].echoes) > marks[0] + 5)
    cut = time.monotonic()
    guest.machine.cable('card0', False)
    guest.until('leaves by w1', 30, lambda: guest.leaves_by() == 'w1')
    guest.until('packets on the second cable', 30, lambda: len(guest.worlds[1].echoes) > marks[1] + 5)
    guest.machine.cable('card0', True)
    guest.until('leaves by w0', 60, lambda: guest.leaves_by() == 'w0')
    guest.run('kill -INT $(cat /tmp/pinger); usleep 300000')
    stop.set()
    first = next(at for at, to in guest.worlds[1].echoes[marks[1]:] if to == FAR and at > cut)
    summary = re.search(r'(\d+) packets transmitted, (\d+) packets received', guest.run('cat /tmp/ping'))
    sent, received = int(summary.group(1)), int(summary.group(2))
    guest.facts['lost'] = sent - received
    return f'first packet on the other cable {1000 * (first - cut):.0f} ms after the order to cut, {sent - received} of {sent} packets lost'


def time_to_commit(guest):
    """how long from carrier loss to the committed route"""
    told = len(guest.switches())
    for _ in range(CUTS):
        # A quiet second first: the kernel announces losses at most once a second.
        guest.until('back on w0', 60, lambda: guest.leaves_by() == 'w0')
        time.sleep(1.5)
        guest.machine.cable('card0', False)
        guest.until('on w1', 60, lambda: guest.leaves_by() == 'w1')
        guest.machine.cable('card0', True)
    guest.until('back on w0', 60, lambda: guest.leaves_by() == 'w0')
    guest.until('all are told', 30, lambda: len(guest.switches()) >= told + 2 * CUTS)
    away = [committed for uplink, _, committed, _ in guest.switches()[told:] if uplink == 'wanb']
    index = guest.run('cat /sys/class/net/w0/ifindex').strip()
    bare, worst_bare = (int(word) for word in guest.run(f'roundtrip {index} 2000').split())
    median = statistics.median(away)
    guest.facts['ratio'] = median / bare
    return (f'event to commit: shortest {min(away):.0f} us, median {median:.0f} us, longest {max(away):.0f} us of {len(away)}; a bare netlink round trip '
            f'here: median {bare} us, longest {worst_bare} us; ratio of medians {median / bare:.1f}')


def killed(guest):
    """with the daemon killed the kernel itself fails over, and a restart changes nothing"""
    before = guest.ours()
    guest.stop('KILL')
    if guest.ours() != before or guest.leaves_by() != 'w0':
        raise Failed('killing it changed something')
    guest.machine.cable('card0', False)
    guest.until('the kernel leaves by w1', 30, lambda: guest.leaves_by() == 'w1')
    guest.machine.cable('card0', True)
    guest.until('and comes back', 30, lambda: guest.leaves_by() == 'w0')
    guest.start()
    guest.until('it has put everything back', 60, lambda: not guest.news())
    return None


def clock_steps(guest):
    """a clock that steps from 1970 to today and back disturbs nothing"""
    told = len(guest.run('cat /tmp/log/linkwatch').splitlines())
    guest.run('date -s "1970-01-01 00:00:10"; usleep 1500000; date -s "2030-06-01 12:00:00"; usleep 1500000; date -s "2025-01-01 00:00:00"')
    news = guest.run('cat /tmp/log/linkwatch').splitlines()[told:]
    # The cards' uplinks and the traffic; the two without a cable may find out what they like.
    news = [line for line in news if re.search(r"'wanb?' is now|leaves by", line)]
    if news:
        raise Failed('\n'.join(news))
    guest.machine.cable('card0', False)
    guest.until('on w1', 30, lambda: guest.leaves_by() == 'w1')
    guest.machine.cable('card0', True)
    guest.until('on w0', 60, lambda: guest.leaves_by() == 'w0')
    # Ages are counted on the clock that never steps.
    uptime = json.loads(guest.run('linkwatch status --json'))['uptime']
    if not 0 < uptime < 900:
        raise Failed(f'running for {uptime} s')
    return f'running for {uptime} s'


def last_words(guest):
    """a fault of its own leaves one line with its place, and the kernel's routes"""
    before = guest.ours()
    pid = guest.run('cat /tmp/pid').strip()
    told = len(guest.run('cat /tmp/log/linkwatch').splitlines())
    # Its program counter while it sleeps.
    guest.run(f'kill -TRAP {pid}; while [ -d /proc/{pid} ]; do usleep 50000; done; true')
    news = guest.run('cat /tmp/log/linkwatch').splitlines()[told:]
    words = [line for line in news if re.search('stopped by a fault of its own, signal 05 at 0x[0-9a-f]+;', line)]
    if len(words) != 1:
        raise Failed(f'{news}')
    if guest.ours() != before:
        raise Failed('its end changed something')
    guest.start()
    guest.until('it has put everything back', 60, lambda: not guest.news())
    return words[0].split('signal ')[1].split(';')[0]


def memory(guest):
    """resident memory with 4 uplinks of 3 targets is within the budget"""
    status = guest.run('cat /proc/$(cat /tmp/pid)/status')
    of = {key: int(kilobytes) for key, kilobytes in re.findall(r'(VmRSS|VmHWM|RssAnon|RssFile|Threads):\s+(\d+)', status)}
    base = open(os.path.join(os.path.dirname(__file__), '../../board/base.toml'), encoding='utf-8').read()
    budget = int(re.search(r'^rss_bytes = ([0-9_]+)', base, re.M).group(1))
    if of['VmHWM'] * 1024 > budget:
        raise Failed(f'{of}, budget {budget // 1024} KiB')
    return (f'{of["VmRSS"]} KiB (longest {of["VmHWM"]}), of it {of["RssAnon"]} KiB its own and {of["RssFile"]} KiB program; '
            f'{of["Threads"]} threads; budget {budget // 1024} KiB')


def read_only(guest):
    """on a read-only root it runs all the same"""
    guest.stop()
    guest.run('mount -o remount,ro / && ! touch /etc/probe 2>/dev/null')
    guest.start('--state /etc/linkwatch.state')
    guest.machine.cable('card0', False)
    guest.until('on w1', 30, lambda: guest.leaves_by() == 'w1')
    guest.machine.cable('card0', True)
    guest.until('on w0', 60, lambda: guest.leaves_by() == 'w0')
    guest.stop()
    guest.run('mount -o remount,rw /')
    guest.run('test ! -e /etc/linkwatch.state')
    guest.start()


def full_disk(guest):
    """an upgrade that does not fit on the disk is refused, and the old one stays whole"""
    size = int(guest.run('du -k /usr/sbin/linkwatch | cut -f1')) * 3 // 2
    guest.run(f'mkdir /tmp/small && mount -t tmpfs -o size={size}k small /tmp/small')
    guest.run('ROOT=/tmp/small package add /tmp-linkwatch.ipk && cd /tmp/small && find . -type f | xargs md5sum >/tmp/whole; cd /')
    status, printed = guest.machine.shell('ROOT=/tmp/small package add /tmp-linkwatch.ipk 2>&1')
    if status == 0 or 'no room' not in printed:
        raise Failed(f'status {status}: {printed}')
    guest.run('cd /tmp/small && md5sum -c /tmp/whole >/dev/null && test $(find . -type f | wc -l) = $(wc -l </tmp/whole); r=$?; cd /; [ $r = 0 ]')
    guest.run('umount /tmp/small && rmdir /tmp/small')
    return f'a disk of {size} KiB'


def flush_removes_everything(guest):
    """flush leaves no trace"""
    guest.stop()
    guest.run('linkwatch flush')
    rules = [line for line in guest.ours().splitlines() if not re.match(r'(0|32766|32767):\s', line)]
    linkdown = guest.run('cat /proc/sys/net/ipv4/conf/w0/ignore_routes_with_linkdown').strip()
    if rules or linkdown != '0':
        raise Failed(f'{rules}, ignore_routes_with_linkdown {linkdown}')


def package_is_removed(guest):
    """removing the package takes everything away, but not a changed configuration"""
    guest.start()
    guest.until('it works', 60, lambda: guest.leaves_by() == 'w0' and '7600' in guest.run('ip rule'))
    # Without procd nobody ends it but us.
    guest.stop()
    printed = guest.run('package remove linkwatch')
    left = guest.files() ^ guest.facts['files']
    if left != {'/etc/config/linkwatch', '/etc/config/linkwatch-opkg'} or 'kept: /etc/config/linkwatch' not in printed:
        raise Failed(f'{printed}{sorted(left)}')
    rules = [line for line in guest.run('ip rule').splitlines() if not re.match(r'(0|32766|32767):\s', line)]
    if rules:
        raise Failed(f'{rules}')


FULL = [boots, package_installs, configure, plan_changes_nothing, takes_over, status_tells, plan_is_empty_when_running,
        flows_are_pinned, carrier_cut, time_to_commit, killed, clock_steps, last_words, memory, read_only, full_disk,
        flush_removes_everything, package_is_removed]
BARE = [boots, package_installs, configure, takes_over, status_tells, plan_is_empty_when_running, carrier_cut,
        flush_removes_everything, package_is_removed]


def main():
    kind, folder, *command = sys.argv[1:]
    checks = BARE if kind == 'bare' else FULL
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), '../..'))
    passed = failed = 0
    guest = None
    print(f'1..{len(checks)}', flush=True)
    try:
        guest = Guest(kind, folder, command)
        for check in checks:
            began = time.monotonic()
            try:
                note = check(guest)
                passed += 1
                verdict = 'ok'
            except Failed as problem:
                note, verdict = problem, 'not ok'
                failed += 1
                if check is boots:
                    raise Dead(problem) from None
            suffix = f' # {note}' if note else ''
            print(f'{verdict} {passed + failed} - {check.__doc__} ({time.monotonic() - began:.1f} s){suffix}', flush=True)
    except Dead as problem:
        failed += len(checks) - passed - failed
        print(f'Bail out! {problem}')
    finally:
        if guest:
            guest.machine.stop()
    print(f'{passed} passed, {failed} failed')
    return failed == 0


if __name__ == '__main__':
    sys.exit(0 if main() else 1)
