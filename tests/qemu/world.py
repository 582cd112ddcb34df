"""The world behind one emulated network card: answers for every address, counts what comes, can fall silent.

Frames come over a stream socket, each with its length before it (QEMU's `-netdev stream`). ARP and neighbour
solicitations are answered, and echo requests, whatever their destination. Nothing leaves this process.
"""
import socket
import struct
import threading
import time


def checksum(data):
    if len(data) % 2:
        data += b'\0'
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class World:
    def __init__(self, path, number):
        self.mac = bytes([0x02, 0, 0x5E, 0, 0, number])
        self.answers = True
        self.echoes = []          # (time, destination) of every echo request
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        stream, _ = self.listener.accept()
        while True:
            head = self.exactly(stream, 4)
            frame = head and self.exactly(stream, struct.unpack('!I', head)[0])
            if not frame:
                return
            answer = self.answer(frame)
            if answer and self.answers:
                stream.sendall(struct.pack('!I', len(answer)) + answer)

    @staticmethod
    def exactly(stream, length):
        data = b''
        while len(data) < length:
            piece = stream.recv(length - len(data))
            if not piece:
                return None
            data += piece
        return data

    def answer(self, frame):
        kind, body = frame[12:14], frame[14:]
        back = frame[6:12] + self.mac + kind
        if kind == b'\x08\x06' and body[6:8] == b'\0\1':
            return self.arp(back, body)
        if kind == b'\x08\x00' and body[9] == 1:
            return self.echo4(back, body)
        if kind == b'\x86\xdd' and body[6] == 58:
            return self.icmp6(back, body)
        return None

    def arp(self, back, body):
        sender, target = body[8:18], body[24:28]
        if sender[6:] in (target, b'\0\0\0\0'):
            return None           # it announces or tries an address of its own
        return back + body[:6] + b'\0\2' + self.mac + target + sender

    def echo4(self, back, body):
        head, length = (body[0] & 15) * 4, struct.unpack('!H', body[2:4])[0]
        message = body[head:length]
        if message[0] != 8:
            return None
        self.echoes.append((time.monotonic(), socket.inet_ntop(socket.AF_INET, body[16:20])))
        ip = bytearray(body[:head])
        ip[8], ip[10:12], ip[12:16], ip[16:20] = 64, b'\0\0', body[16:20], body[12:16]
        ip[10:12] = struct.pack('!H', checksum(bytes(ip)))
        message = b'\0\0\0\0' + message[4:]
        return back + bytes(ip) + message[:2] + struct.pack('!H', checksum(message)) + message[4:]

    def icmp6(self, back, body):
        source, target = body[8:24], body[24:40]
        message = body[40:40 + struct.unpack('!H', body[4:6])[0]]
        if message[0] == 135 and any(source):
            asked = message[8:24]
            return back + self.packet6(asked, source, b'\x88\0\0\0\x60\0\0\0' + asked + b'\2\1' + self.mac)
        if message[0] == 128:
            self.echoes.append((time.monotonic(), socket.inet_ntop(socket.AF_INET6, target)))
            return back + self.packet6(target, source, b'\x81\0\0\0' + message[4:])
        return None

    @staticmethod
    def packet6(source, target, message):
        pseudo = source + target + struct.pack('!II', len(message), 58)
        message = message[:2] + struct.pack('!H', checksum(pseudo + message)) + message[4:]
        return struct.pack('!IHBB', 6 << 28, len(message), 58, 255) + source + target + message
