#!/usr/bin/env python3
"""Writes a guest's root file system: busybox, an init, kernel modules in the order they depend on each other, files.

initramfs.py OUT --init FILE --busybox FILE [--modules DIR --module NAME...] [--file SOURCE:TARGET:MODE...]

The cpio archive (newc, gzip) is made here, so neither root nor cpio(1) is needed. A module that the kernel has built in
is passed over; one that is neither there nor built in is an error.
"""
import argparse
import gzip
import io
import os
import re
import sys


class Archive:
    def __init__(self):
        self.out, self.inode, self.folders = io.BytesIO(), 0, set()

    def entry(self, name, mode, data=b'', device=(0, 0)):
        self.inode += 1
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        self.pad(b'070701' + b''.join(b'%08X' % field for field in fields) + name.encode() + b'\0')
        self.pad(data)

    def pad(self, data):
        self.out.write(data + b'\0' * (-(self.out.tell() + len(data)) % 4))

    def folder(self, name):
        parts = name.strip('/').split('/')
        for depth in range(1, len(parts) + 1):
            path = '/'.join(parts[:depth])
            if path and path not in self.folders:
                self.folders.add(path)
                self.entry(path, 0o40755)

    def file(self, name, data, mode):
        name = name.strip('/')
        self.folder(os.path.dirname(name))
        self.entry(name, 0o100000 | mode, data)


def read(path):
    with open(path, 'rb') as file:
        return file.read()


def in_order(root, wanted):
    """The paths of `wanted` and all that they depend on, dependencies first."""
    def plain(name):
        return name.replace('-', '_')

    found, built_in = {}, set()
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith('.ko'):
                found[plain(name[:-3])] = os.path.join(folder, name)
            elif name == 'modules.builtin':
                lines = read(os.path.join(folder, name)).decode().split()
                built_in |= {plain(os.path.basename(line)[:-3]) for line in lines}
    order = []

    def need(name):
        name = plain(name)
        if name in built_in or name in order:
            return
        if name not in found:
            sys.exit(f'no module {name} under {root}')
        depends = re.search(rb'\0depends=([^\0]*)', read(found[name]))
        for other in depends.group(1).decode().split(',') if depends else []:
            if other:
                need(other)
        order.append(name)

    for name in wanted:
        need(name)
    return [(name, found[name]) for name in order]


def main():
    words = argparse.ArgumentParser()
    words.add_argument('out')
    words.add_argument('--init', required=True)
    words.add_argument('--busybox', required=True)
    words.add_argument('--modules')
    words.add_argument('--module', action='append', default=[])
    words.add_argument('--file', action='append', default=[])
    words = words.parse_args()
    archive = Archive()
    for name in 'bin dev etc lib mnt proc root sys tmp usr/bin usr/sbin var'.split():
        archive.folder(name)
    archive.entry('dev/console', 0o20600, device=(5, 1))
    archive.entry('dev/null', 0o20666, device=(1, 3))
    archive.file('bin/busybox', read(words.busybox), 0o755)
    archive.entry('bin/sh', 0o120777, b'busybox')
    archive.file('init', read(words.init), 0o755)
    modules = in_order(words.modules, words.module) if words.modules else []
    for name, path in modules:
        archive.file(f'modules/{name}.ko', read(path), 0o644)
    archive.file('modules/order', ''.join(name + '\n' for name, _ in modules).encode(), 0o644)
    for file in words.file:
        source, target, mode = file.split(':')
        archive.file(target, read(source), int(mode, 8))
    archive.entry('TRAILER!!!', 0)
    with open(words.out, 'wb') as out:
        out.write(gzip.compress(archive.out.getvalue(), 6, mtime=0))


main()
