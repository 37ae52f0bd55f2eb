"""Runs the cases of the Autobahn suite (PyPI: autobahntestsuite 0.8.2) against an echo server at the WebSocket URL that is
named, and prints what each came to.

The suite is written for Python 2: a folder with its `case` package after lib2to3 stands in AUTOBAHN_CASES. Its texts
are bytes there, so here they are Latin-1, both ways. Needs autobahn 0.10.9, twisted, and Python up to 3.12.

    python3 -m venv v && v/bin/pip install autobahn==0.10.9 twisted setuptools
    v/bin/pip download --no-deps --no-binary :all: autobahntestsuite==0.8.2 && tar xzf autobahntestsuite-0.8.2.tar.gz
    cp -r autobahntestsuite-0.8.2/autobahntestsuite cases
    v/bin/python -m lib2to3 -w -n --no-diffs cases/case && sed -i 's/coding=utf-8/coding=latin-1/' cases/case/*.py
    sed -i 's/(object, Case, )/(Case, )/' cases/case/*.py
    AUTOBAHN_CASES=$PWD/cases CHAPPE_AUTOBAHN=$PWD/v/bin/python cargo test -p chappe-node autobahn -- --nocapture
"""

import binascii
import os
import sys

sys.path.insert(0, os.environ["AUTOBAHN_CASES"])

import pkg_resources
import txaio
import zope.interface
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol, connectWS
from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet import reactor

txaio.use_twisted()
# What the cases import from elsewhere, and don't need.
zope.interface.implements = lambda *interfaces: None
pkg_resources.resource_filename = lambda package, name: os.path.join(os.environ["AUTOBAHN_CASES"], name)


def octets(text):
    return text.encode("latin-1") if isinstance(text, str) else text


b2a_hex = binascii.b2a_hex
binascii.b2a_hex = lambda text: b2a_hex(octets(text)).decode()
validate = Utf8Validator.validate
Utf8Validator.validate = lambda self, text: validate(self, octets(text))


def texts(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return [texts(one) for one in value]
    return value


class Protocol(WebSocketClientProtocol):
    """What a case calls `self.p`."""

    connectionWasOpen = False
    createWirelog = False

    def enableWirelog(self, enable):
        pass

    def later(self, delay, then):
        reactor.callLater(delay, lambda: None if self.state == self.STATE_CLOSED else then())

    def continueLater(self, delay, fun, tag=None):
        self.later(delay, fun)

    def killAfter(self, delay):
        self.later(delay, self.failConnection)

    def closeAfter(self, delay):
        self.later(delay, self.sendClose)

    def sendFrame(self, opcode, payload=b"", payload_len=None, **more):
        payload = octets(payload)
        if payload_len is not None and payload:
            # As often as it fits, and the head of one more.
            payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
        super().sendFrame(opcode, octets(payload), **{**more, "mask": octets(more.get("mask"))})

    def sendMessage(self, payload, *args, **more):
        super().sendMessage(octets(payload), *args, **more)

    def sendMessageFrameData(self, payload, sync=False):
        return super().sendMessageFrameData(octets(payload), sync)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        super().sendCloseFrame(code, octets(reasonUtf8), isReply)

    def connectionMade(self):
        super().connectionMade()
        self.case = self.factory.case(self)
        self.case.compare = lambda one, other: texts(one) == texts(other)

    def onOpen(self):
        self.connectionWasOpen = True
        self.case.onOpen()

    def onMessage(self, payload, isBinary):
        self.case.onMessage(texts(payload), isBinary)

    def onPing(self, payload):
        self.case.onPing(texts(payload))

    def onPong(self, payload):
        self.case.onPong(texts(payload))

    def onClose(self, wasClean, code, reason):
        self.case.onClose(wasClean, code, reason)

    def connectionLost(self, reason):
        super().connectionLost(reason)
        try:
            self.case.onConnectionLost(self.failedByMe)
        finally:
            self.factory.done(self.case)


def cases():
    import case

    wanted = sys.argv[2:]
    for one in case.Cases:
        name = one.__name__[4:].replace("_", ".")
        # Compression is agreed upon by no relay: the suite calls 12 and 13 «unimplemented» then.
        if name.split(".")[0] in ("12", "13"):
            continue
        if not wanted or any(name == prefix or name.startswith(prefix + ".") for prefix in wanted):
            yield name, one


def main(url):
    todo, results = list(cases()), {}

    def go_on():
        if not todo:
            return reactor.stop()
        name, case = todo.pop(0)
        ended = []

        def done(ran):
            if not ended:
                ended.append(True)
                results[name] = (ran.behavior, ran.behaviorClose)
                print(f"{name} {ran.behavior} / {ran.behaviorClose}", flush=True)
                reactor.callLater(0, go_on)

        factory = WebSocketClientFactory(url)
        factory.protocol, factory.case, factory.done = Protocol, case, done
        factory.setProtocolOptions(failByDrop=False, serverConnectionDropTimeout=2, closeHandshakeTimeout=10)
        connectWS(factory)

    reactor.callWhenRunning(go_on)
    reactor.run()
    counts = {}
    for result in results.values():
        counts[result] = counts.get(result, 0) + 1
    print(f"{len(results)} cases:", ", ".join(f"{count} {' / '.join(result)}" for result, count in counts.items()))


main(sys.argv[1])
