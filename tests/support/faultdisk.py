#!/usr/bin/env python3
"""A disk that records what it is told and can fail: one file in a FUSE file system, for a loop device to lie on.

usage: faultdisk.py MOUNTPOINT BACKING_FILE RECORD_FILE          (root; no package but Python itself)

MOUNTPOINT/disk.img shows BACKING_FILE. Every write and flush goes into RECORD_FILE, in the order in which the disk
took it, as a header (kind u8, three bytes of padding, length u32, number u64, time u64 ns of CLOCK_MONOTONIC when it
came in, all little endian) and the bytes of a write; kind 1 is a write at byte `number`, kind 2 a flush, which covers the first
`number` records: those that were answered before the flush can have been asked for.

One command a line on standard input, one answer a line:
  fail write|flush N once|always   the Nth of that kind from now on fails with EIO, or it and everything after it
  heal                             nothing fails any more
  count                            writes and flushes so far, and how many failed
  quit                             unmounts; so does the end of standard input
Owner: tests/support/fault_disk.rs. It must not answer a write before it is in the record.
"""
import ctypes
import errno
import os
import select
import stat
import struct
import sys
import time

PAGE = 4096
REQUEST_BYTES_MAX = 1 << 20
MNT_DETACH = 2
INIT, LOOKUP, FORGET, GETATTR, SETATTR = 26, 1, 2, 3, 4
OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, OPENDIR, READDIR, RELEASEDIR, DESTROY, FALLOCATE = (
    14, 15, 16, 17, 18, 20, 25, 27, 28, 29, 38, 43)
ASYNC_READ, BIG_WRITES, MAX_PAGES = 1 << 0, 1 << 5, 1 << 22
DIRECT_IO = 1
# Requests taken in before one is answered: a flush among them covers none of the writes beside it.
DRAIN_MAX = 16

libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    def __init__(self, mountpoint, backing, record):
        self.mountpoint = mountpoint
        self.fuse = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        options = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,max_read=%d" % (self.fuse, REQUEST_BYTES_MAX)
        if libc.mount(b"ringlog-faultdisk", mountpoint.encode(), b"fuse", 0, options.encode()) != 0:
            sys.exit("cannot mount: " + os.strerror(ctypes.get_errno()))
        self.backing = os.open(backing, os.O_RDWR)
        self.size = os.fstat(self.backing).st_size
        self.record = open(record, "wb", buffering=0)
        self.records = self.writes = self.flushes = self.failed = 0
        self.rule = None

    def attributes(self, inode):
        mode, size = (stat.S_IFDIR | 0o755, 0) if inode == 1 else (stat.S_IFREG | 0o644, self.size)
        return struct.pack("<QQQQQQIIIIIIIIII", inode, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0,
                           PAGE, 0)

    def reply(self, unique, data=b"", error=0):
        try:
            os.write(self.fuse, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)
        except OSError as gone:
            # The one who asked was killed meanwhile.
            if gone.errno != errno.ENOENT:
                raise

    def fails(self, kind):
        """Whether this operation is to fail."""
        if self.rule is None:
            return False
        wanted, left, always = self.rule
        if left == 0:
            self.failed += 1
            return True
        if wanted != kind:
            return False
        left -= 1
        if left > 0:
            self.rule = (wanted, left, always)
            return False
        self.rule = (wanted, 0, True) if always else None
        self.failed += 1
        return True

    def note(self, kind, length, number, since, data=b""):
        header = struct.pack("<BxxxIQQ", kind, length, number, since)
        if os.writev(self.record.fileno(), [header, data]) != len(header) + len(data):
            sys.exit("the record cannot be written")
        self.records += 1

    def write(self, unique, payload, since):
        _, offset, size = struct.unpack("<QQI", payload[:20])
        self.writes += 1
        if self.fails("write"):
            return self.reply(unique, error=errno.EIO)
        data = payload[40:40 + size]
        self.note(1, size, offset, since, data)
        os.pwrite(self.backing, data, offset)
        self.reply(unique, struct.pack("<II", size, 0))

    def flush(self, unique, since, covered):
        self.flushes += 1
        if self.fails("flush"):
            return self.reply(unique, error=errno.EIO)
        self.note(2, 0, covered, since)
        self.reply(unique)

    def other(self, unique, operation, inode, payload):
        if operation == INIT:
            flags = ASYNC_READ | BIG_WRITES | MAX_PAGES
            self.reply(unique, struct.pack("<IIIIHHIIHHI28s", 7, 31, REQUEST_BYTES_MAX, flags, 64, 48,
                                           REQUEST_BYTES_MAX, 1, REQUEST_BYTES_MAX // PAGE, 0, 0, b"")[:64])
        elif operation == LOOKUP:
            if payload.split(b"\0")[0] == b"disk.img":
                self.reply(unique, struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + self.attributes(2))
            else:
                self.reply(unique, error=errno.ENOENT)
        elif operation in (GETATTR, SETATTR):
            self.reply(unique, struct.pack("<QII", 3600, 0, 0) + self.attributes(inode))
        elif operation in (OPEN, OPENDIR):
            self.reply(unique, struct.pack("<QII", 1, DIRECT_IO, 0))
        elif operation == READ:
            _, offset, size = struct.unpack("<QQI", payload[:20])
            self.reply(unique, os.pread(self.backing, size, offset))
        elif operation == STATFS:
            self.reply(unique, struct.pack("<QQQQQIIII24s", 0, 0, 0, 0, 0, PAGE, 255, PAGE, 0, b""))
        elif operation in (RELEASE, RELEASEDIR, FLUSH, READDIR, DESTROY):
            self.reply(unique)
        elif operation != FORGET:
            self.reply(unique, error=errno.ENOSYS)

    def take(self):
        """All requests that are there; False when the file system is gone."""
        requests = []
        while len(requests) < DRAIN_MAX:
            try:
                requests.append(os.read(self.fuse, REQUEST_BYTES_MAX + 2 * PAGE))
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    break
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return False
        covered, since = self.records, time.monotonic_ns()
        for request in requests:
            _, operation, unique, inode = struct.unpack("<IIQQ", request[:24])
            payload = request[40:]
            if operation == WRITE:
                self.write(unique, payload, since)
            elif operation == FSYNC:
                self.flush(unique, since, covered)
            else:
                self.other(unique, operation, inode, payload)
        return True

    def command(self, line):
        words = line.split()
        if words[:1] == ["fail"] and len(words) == 4:
            self.rule = (words[1], int(words[2]), words[3] == "always")
            return "ok"
        if words == ["heal"]:
            self.rule = None
            return "ok"
        if words == ["count"]:
            return "%d %d %d" % (self.writes, self.flushes, self.failed)
        return None if words == ["quit"] else "what?"

    def serve(self):
        print("ready", flush=True)
        waiting = b""
        while True:
            ready, _, _ = select.select([self.fuse, 0], [], [])
            if self.fuse in ready and not self.take():
                return
            if 0 in ready:
                got = os.read(0, 4096)
                if not got:
                    return
                waiting += got
                while b"\n" in waiting:
                    line, waiting = waiting.split(b"\n", 1)
                    answer = self.command(line.decode())
                    if answer is None:
                        return
                    print(answer, flush=True)


def main():
    disk = Disk(*sys.argv[1:4])
    try:
        disk.serve()
    finally:
        libc.umount2(disk.mountpoint.encode(), MNT_DETACH)


if __name__ == "__main__":
    main()
