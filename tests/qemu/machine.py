"""An emulated machine: its serial console as a shell, its monitor as a hand on the cable."""
import json
import os
import re
import socket
import subprocess
import time


class Dead(Exception):
    """The guest ended, or says nothing any more."""


class Machine:
    def __init__(self, command, folder):
        """Starts QEMU with its console and its monitor on sockets in `folder`."""
        paths = {name: os.path.join(folder, name) for name in ('console', 'monitor')}
        for path in paths.values():
            if os.path.exists(path):
                os.unlink(path)
        self.log = open(os.path.join(folder, 'console.log'), 'wb')
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*command, '-display', 'none', '-no-reboot',
             '-chardev', f'socket,id=console,path={paths["console"]},server=on,wait=on', '-serial', 'chardev:console',
             '-qmp', f'unix:{paths["monitor"]},server=on,wait=off'],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.console = self.connect(paths['console'])
        self.monitor = self.connect(paths['monitor']).makefile('rw')
        self.monitor.readline()
        self.order('qmp_capabilities')
        self.unread = ''

    def connect(self, path):
        end = time.monotonic() + 20
        while True:
            try:
                client = socket.socket(socket.AF_UNIX)
                client.connect(path)
                return client
            except OSError:
                client.close()
                if self.process.poll() is not None or time.monotonic() > end:
                    raise Dead(f'QEMU does not start: see {self.log.name}') from None
                time.sleep(0.05)

    def order(self, what, **arguments):
        """Gives the monitor an order."""
        self.monitor.write(json.dumps({'execute': what, 'arguments': arguments}) + '\n')
        self.monitor.flush()
        for line in self.monitor:
            answer = json.loads(line)
            if 'error' in answer:
                raise Dead(f'{what}: {answer["error"]}')
            if 'return' in answer:
                return answer['return']
        raise Dead(f'{what}: the monitor is closed')

    def cable(self, card, plugged):
        """Plugs a card's cable in or pulls it out."""
        self.order('set_link', name=card, up=plugged)

    def wait_for(self, pattern, patience):
        """Reads the console until `pattern`; returns the match and what came before it."""
        end = time.monotonic() + patience
        while True:
            match = re.search(pattern, self.unread)
            if match:
                before, self.unread = self.unread[:match.start()], self.unread[match.end():]
                return match, before
            self.console.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self.console.recv(65536)
            except TimeoutError:
                data = None
            if not data:
                raise Dead(f'no {pattern!r} within {patience} s; last words: {self.unread[-2000:]!r}')
            self.log.write(data)
            self.log.flush()
            self.unread += data.decode(errors='replace').replace('\r', '')

    def shell(self, line, patience=60):
        """Lets the guest's shell carry out a line; returns its exit status and what it printed."""
        assert len(line) < 1000 and '\n' not in line, line
        self.console.sendall(line.encode() + b'\n')
        match, printed = self.wait_for(r'=status (\d+)=\n', patience)
        return int(match.group(1)), printed

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
