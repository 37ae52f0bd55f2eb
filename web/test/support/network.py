"""Joins network namespaces by a switch in user space, whose links lose, delay, limit or stop packets.

A kernel without `netem` has nothing for this. Arguments: the namespaces to make. The one number n has the address 203.0.113.n,
its interface is `up0`, and a router that leads nowhere is its default. Each line of standard input changes the link of one
namespace, in both directions:

    <namespace> [loss PERCENT] [delay MS] [rate KBIT/S] [down 1]

What is left out is 0. The namespaces are removed at the end of standard input, or after LIFETIME.
"""

import fcntl
import heapq
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

LIFETIME = 900
# As much as a bad router buffers: more delays sound, less loses it. In seconds.
QUEUE = 0.15
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def make_tap(name):
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22s", name.encode(), IFF_TAP | IFF_NO_PI, b""))
    return tap


class Link:
    """The link between a namespace and the switch."""

    def __init__(self, namespace, number):
        self.namespace = namespace
        device = f"cht{os.getpid() % 100000}{number}"
        self.tap = make_tap(device)
        ip("netns", "add", namespace)
        ip("link", "set", device, "netns", namespace, "name", "up0")
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "addr", "add", f"203.0.113.{number}/24", "dev", "up0")
        ip("-n", namespace, "link", "set", "up0", "up")
        ip("-n", namespace, "route", "add", "default", "via", "203.0.113.254")
        self.change({})

    def change(self, values):
        self.loss = values.get("loss", 0) / 100
        self.delay = values.get("delay", 0) / 1000
        self.rate = values.get("rate", 0) * 125
        self.is_down = values.get("down", 0) > 0
        self.free_at = {"up": 0.0, "down": 0.0}

    def leaves_at(self, direction, length, now):
        """When a packet has passed the link, or None if it is lost."""
        if self.is_down or random.random() < self.loss:
            return None
        if not self.rate:
            return now + self.delay
        start = max(now, self.free_at[direction])
        if start - now > QUEUE:
            return None
        self.free_at[direction] = start + length / self.rate
        return self.free_at[direction] + self.delay


class Switch:
    """Passes packets between links, by the addresses that it has seen."""

    def __init__(self, links):
        self.links = links
        self.places = {}
        self.queue = []
        self.count = 0

    def receive(self, link, packet, now):
        self.places[packet[6:12]] = link
        known = self.places.get(packet[:6])
        others = [other for other in self.links if other is not link]
        at = link.leaves_at("up", len(packet), now)
        for other in [known] if known in others else others:
            arrives = at and other.leaves_at("down", len(packet), at)
            if arrives:
                self.count += 1
                heapq.heappush(self.queue, (arrives, self.count, other, packet))

    def deliver(self, now):
        while self.queue and self.queue[0][0] <= now:
            link, packet = heapq.heappop(self.queue)[2:]
            try:
                os.write(link.tap, packet)
            except OSError:
                pass  # The interface is down, or its queue is full: the packet is lost.

    def wait(self, now):
        return max(0, self.queue[0][0] - now) if self.queue else 0.5


def read_packets(link):
    while True:
        try:
            yield os.read(link.tap, 65536)
        except BlockingIOError:
            return


def run(links):
    switch = Switch(links)
    by_name = {link.namespace: link for link in links}
    until = time.monotonic() + LIFETIME
    print("up", flush=True)
    while time.monotonic() < until:
        taps = [link.tap for link in links]
        ready = select.select([*taps, sys.stdin], [], [], switch.wait(time.monotonic()))[0]
        now = time.monotonic()
        for link in links:
            if link.tap in ready:
                for packet in read_packets(link):
                    switch.receive(link, packet, now)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            name, *words = line.split()
            by_name[name].change(dict(zip(words[::2], map(float, words[1::2]))))
            print("changed", flush=True)
        switch.deliver(time.monotonic())


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    links = []
    try:
        for number, namespace in enumerate(sys.argv[1:], 1):
            links.append(Link(namespace, number))
        run(links)
    finally:
        for namespace in sys.argv[1:]:
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL, check=False)


main()
