"""What the init script tells procd, and how scripts of users are run: our files against stand-ins of our own
(`recorder`), without a router. Each check gets a folder that stands for /.
"""
import json
import os
import re
import stat
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, '..', '..')
CONFIG = "config interface 'wan'\n\toption device 'eth1'\nconfig interface 'lte'\n"


def text_of(name):
    with open(os.path.join(ROOT, name), encoding='utf-8') as file:
        return file.read()


def executable(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)
    os.chmod(path, 0o755)


class Service:
    """The init script with its paths in a folder."""

    def __init__(self, case, user=True, jail=True, config='linkwatch', text=CONFIG):
        self.case, self.root = case, case.root
        script = text_of('openwrt/files/linkwatch.init')
        for path in ('/etc/', '/var/run/', '/sbin/ujail', '/usr/sbin/', '/tmp/resolv.conf.d'):
            script = re.sub(rf'(?<![\w/$}}]){re.escape(path)}', self.root + path, script)
        self.script = os.path.join(case.folder, 'init')
        executable(self.script, script)
        case.write('/etc/passwd', 'root:x:0:0::/:/bin/sh\n' + ('linkwatch:x:9:9::/:/bin/false\n' if user else ''))
        if config:
            case.write(f'/etc/config/{config}', text)
        if jail:
            executable(case.path('/sbin/ujail'), '#!/bin/sh\n')
        executable(case.path('/usr/sbin/linkwatch'), f'#!/bin/sh\necho "linkwatch|$*" >>{case.folder}/calls\n')
        os.makedirs(case.path('/var/run'), exist_ok=True)

    def run(self, function, action='start', **env):
        calls = os.path.join(self.case.folder, 'calls')
        open(calls, 'w', encoding='utf-8').close()
        given = {**os.environ, 'CALLS': calls, 'ACTION': action, 'SCRIPT': self.script, 'ROOT': self.root, **env}
        done = subprocess.run(['sh', os.path.join(HERE, 'recorder'), function], env=given, capture_output=True, text=True)
        self.status, self.said = done.returncode, done.stderr
        with open(calls, encoding='utf-8') as file:
            return [tuple(line.replace(self.root, '').split('|')) for line in file.read().splitlines()]


def params(calls):
    return {call[1]: list(call[2:]) for call in calls if call[0] == 'procd_set_param'}


def init_in_a_jail(case):
    """where there is a jail, procd is asked for it, for a user of our own and for two capabilities"""
    service = Service(case)
    calls = service.run('start_service')
    assert service.status == 0 and service.said == '', service.said
    run = '/var/run/linkwatch'
    assert params(calls) == {
        'respawn': ['3600', '1', '0'], 'stderr': ['1'], 'pidfile': ['/var/run/linkwatch.pid'], 'term_timeout': ['5'],
        'file': ['/etc/config/linkwatch'], 'reload_signal': ['HUP'], 'netdev': [],
        'command': ['/usr/sbin/linkwatch', 'run', '-c', f'{run}/linkwatch', '--state', f'{run}/state',
                    '--control', f'{run}/control', '--log', 'syslog'],
        'user': ['linkwatch'], 'group': ['linkwatch'], 'capabilities': ['/etc/capabilities/linkwatch.json'],
        'no_new_privs': ['1'], 'env': ['PATH=/usr/sbin:/usr/bin:/sbin:/bin']}, params(calls)
    assert ('procd_append_param', 'netdev', 'eth1') in calls
    # Without requirejail a router without ujail would run it as that user and without any capability.
    assert ('procd_add_jail', 'linkwatch', 'log', 'ubus', 'ronly', 'requirejail') in calls, calls
    assert ('procd_add_jail_mount_rw', run, '/proc/sys/net') in calls, calls
    assert calls[0][0] == 'config_load' and calls[1:2] == [('procd_open_instance',)]
    assert calls[-1] == ('procd_close_instance',)
    copy = case.path(f'{run}/linkwatch')
    assert case.read(f'{run}/linkwatch') == CONFIG and stat.S_IMODE(os.stat(copy).st_mode) == 0o400
    assert ('chown', '-R', 'linkwatch:linkwatch', run) in calls
    capabilities = json.loads(text_of('openwrt/files/linkwatch.capabilities.json'))
    assert sorted(capabilities) == ['ambient', 'bounding', 'effective', 'inheritable', 'permitted']
    assert all(value == ['CAP_NET_ADMIN', 'CAP_NET_RAW'] for value in capabilities.values()), capabilities


def init_without_a_jail(case):
    """without ujail, without the user or by the user's wish it runs as root: a user alone would have no capability"""
    for at, given in enumerate(({'jail': False}, {'user': False}, {'text': CONFIG + "config globals 'globals'\n\toption jail '0'\n"})):
        os.makedirs(os.path.join(case.folder, str(at)))
        here = type(case).__new__(type(case))
        here.folder, here.root = os.path.join(case.folder, str(at)), os.path.join(case.folder, str(at), 'root')
        calls = Service(here, **given).run('start_service')
        asked = params(calls)
        assert asked['command'][:4] == ['/usr/sbin/linkwatch', 'run', '-c', '/etc/config/linkwatch'], asked
        assert not {'user', 'group', 'capabilities', 'no_new_privs'} & set(asked), asked
        assert not [call for call in calls if 'jail' in call[0] or call[0] in ('ubus', 'chown')], calls


def init_rules_are_read(case):
    """ubusd is told to read the access rules when a package may just have been installed, and not at boot or reload"""
    service = Service(case)
    told = ('ubus', '-t', '2', 'call', 'service', 'signal', '{"name":"ubus","signal":1}')
    for action, want in (('start', True), ('restart', True), ('boot', False), ('reload', False)):
        calls = service.run('start_service', action)
        assert (told in calls) == want, (action, calls)
        assert params(calls)['user'] == ['linkwatch']


def init_resolvers(case):
    """the list of resolvers, if there is to be one, is there, is the daemon's, and is in its jail"""
    path = '/tmp/resolv.conf.d/resolv.conf.linkwatch'
    service = Service(case)
    case.write('/etc/config/linkwatch', CONFIG + f"config globals 'globals'\n\toption resolvers '{case.root}{path}'\n")
    calls = service.run('start_service')
    assert os.path.isfile(case.path(path)) and ('chown', 'linkwatch:linkwatch', path) in calls, calls
    assert ('procd_add_jail_mount', '/tmp/resolv.conf.d') in calls and ('procd_add_jail_mount_rw', path) in calls, calls


def init_triggers(case):
    """a changed file is reloaded: linkwatch's own, or mwan3's where there is only that"""
    assert Service(case).run('service_triggers') == [('procd_add_reload_trigger', 'linkwatch')]
    os.remove(case.path('/etc/config/linkwatch'))
    service = Service(case, config='mwan3')
    assert service.run('service_triggers') == [('procd_add_reload_trigger', 'mwan3')]
    assert params(service.run('start_service'))['file'] == ['/etc/config/mwan3']
    os.remove(case.path('/etc/config/mwan3'))
    assert Service(case, config=None).run('start_service') == [], 'without a file nothing is started'


def init_stops(case):
    """stop takes everything out of the kernel once the daemon is gone; restart, reload and an upgrade take nothing"""
    service = Service(case)
    case.write('/var/run/linkwatch.pid', '1\n')
    assert service.run('service_stopped', 'stop') == [('sleep', '1'), ('linkwatch', 'flush --state /var/run/linkwatch/state')]
    for action, env in (('restart', {}), ('reload', {}), ('boot', {}), ('stop', {'PKG_UPGRADE': '1'})):
        assert service.run('service_stopped', action, **env) == [], (action, env)


def rules_cover_the_bus(case):
    """the access rules allow each object that is published, followed or called, and nothing else"""
    del case
    rules = json.loads(text_of('openwrt/files/linkwatch.acl.json'))
    source = text_of('src/proto/ubus/object.rs').split('pub const LINKWATCH')[0]
    assert rules['user'] == 'linkwatch'
    assert rules['publish'] == re.findall(r'Object \{ path: "([^"]+)"', source)
    follow = dict(re.findall(r'Follow \{ path: "([^"]+)", subscribe: (true|false) \}', source))
    assert set(rules['access']) == set(follow), (rules['access'], follow)
    assert rules['subscribe'] == [path for path, wanted in follow.items() if wanted == 'true']
    assert rules['listen'] == ['ubus.object.*'] and rules['send'] == ['linkwatch.*']
    assert rules['access']['network.interface']['methods'] == ['dump', 'status', 'up', 'down']


class Scripts:
    """The hotplug script with its paths in a folder, and a bus that knows one uplink."""

    def __init__(self, case, user, limit=60):
        self.log, self.case = os.path.join(case.folder, 'log'), case
        script = text_of('openwrt/files/linkwatch.hotplug')
        script = script.replace('/etc/mwan3.user', case.path('/etc/mwan3.user')).replace('LIMIT=60', f'LIMIT={limit}')
        self.script = os.path.join(case.folder, 'hotplug')
        executable(self.script, script)
        case.write('/etc/mwan3.user', user.replace('LOG', self.log))
        executable(case.path('/bin/ubus'), '#!/bin/sh\ncase "$6" in *\'"wan"\'*) echo \'{"device":"eth1"}\' ;; *) exit 4 ;; esac\n')
        executable(case.path('/bin/jsonfilter'), '#!/bin/sh\necho "$2" | sed -n \'s/.*"device":"\\([^"]*\\)".*/\\1/p\'\n')
        executable(case.path('/bin/logger'), f'#!/bin/sh\necho "logged: $*" >>{self.log}\n')

    def happen(self, **env):
        path = self.case.path('/bin') + ':' + os.environ['PATH']
        began = time.monotonic()
        # Sourced in a shell of its own, as hotplug-call does.
        subprocess.run(['sh', '-c', f'. {self.script}'], env={'PATH': path, 'SECRET': 'x', **env}, check=True)
        return time.monotonic() - began

    def wait(self, word):
        for _ in range(2000):
            if os.path.exists(self.log):
                with open(self.log, encoding='utf-8') as file:
                    said = file.read()
                if word in said:
                    return said
            time.sleep(0.01)
        raise AssertionError(f'{word} never came')


def users_script_runs_as_with_mwan3(case):
    """/etc/mwan3.user runs for uplinks only, with ACTION, INTERFACE and DEVICE, which is filled on the way down too"""
    user = '#!/bin/sh\necho "$ACTION $INTERFACE $DEVICE secret=$SECRET" >>LOG\n'
    scripts = Scripts(case, user)
    scripts.happen(ACTION='ifup', INTERFACE='lan', DEVICE='br-lan')
    scripts.happen(ACTION='ifdown', INTERFACE='wan')
    assert scripts.wait('ifdown') == 'ifdown wan eth1 secret=\n'
    scripts.happen(ACTION='connected', INTERFACE='wan', DEVICE='pppoe-wan')
    assert scripts.wait('connected').splitlines()[1:] == ['connected wan pppoe-wan secret=']


def users_script_is_never_in_the_way(case):
    """a script that hangs is not waited for, and is ended with its children"""
    scripts = Scripts(case, '#!/bin/sh\necho $$ >LOG\nsleep 1000\n', limit=1)
    took = scripts.happen(ACTION='connected', INTERFACE='wan')
    assert took < 1000, took
    said = scripts.wait('was ended')
    number = said.split()[0]
    for _ in range(2000):
        if not os.path.isdir(f'/proc/{number}'):
            break
        time.sleep(0.01)
    else:
        raise AssertionError('it still runs')
    for status in (f'/proc/{n}/status' for n in os.listdir('/proc') if n.isdigit()):
        try:
            with open(status, encoding='utf-8') as file:
                assert f'PPid:\t{number}\n' not in file.read(), 'a child is left'
        except OSError:
            pass


CHECKS = [init_in_a_jail, init_without_a_jail, init_rules_are_read, init_resolvers, init_triggers, init_stops,
          rules_cover_the_bus, users_script_runs_as_with_mwan3, users_script_is_never_in_the_way]
