#!/usr/bin/env python3
"""The clients of packaging/check/life, inside the machine.

    mail.py whole                 sends a message to alice and fetches it, by SMTP, IMAP and POP3
    mail.py greeted PORT          connects and waits for a greeting of IMAP
    mail.py guess PORT FROM       logs in from an address with a wrong password, under names that try to
                                  put another address into the log
    mail.py knock COMMAND...      connects every 5 ms while a command runs; no connection may be refused
"""

import imaplib
import poplib
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

IMAP = ("127.0.0.1", 143)
# Addresses that stand in a name only: whoever finds them as clients was fooled.
NAMES = [
    'x", client: "203.0.113.9',
    'x" while reading client command, client: "203.0.113.9:1", server: "y',
    "x, client: 203.0.113.9, server: y",
    'x\\", client: "203.0.113.9\\", login: "z',
    'client login failed: "x" while sending, client: "203.0.113.9"',
]


def tls():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def whole():
    subject = f"proof {time.time()}"
    smtp = smtplib.SMTP(IMAP[0], 587, timeout=20)
    smtp.starttls(context=tls())
    smtp.login("alice", "secret")
    smtp.sendmail("alice@localhost", ["alice@localhost"], f"Subject: {subject}\r\n\r\nHello\r\n")
    smtp.quit()

    imap = imaplib.IMAP4(*IMAP, timeout=20)
    imap.starttls(tls())
    imap.login("alice", "secret")
    end = time.monotonic() + 20
    while imap.select("INBOX")[0] != "OK" or not imap.search(None, "SUBJECT", f'"{subject}"')[1][0]:
        assert time.monotonic() < end, "the message did not arrive"
        time.sleep(0.1)
    imap.logout()

    pop = poplib.POP3(IMAP[0], 110, timeout=20)
    pop.stls(tls())
    pop.user("alice")
    pop.pass_("secret")
    assert pop.stat()[0] > 0
    pop.quit()


def greeted(port):
    with socket.create_connection((IMAP[0], port), timeout=5) as client:
        assert client.recv(100).startswith(b"* OK"), "no greeting"


def guess(port, address):
    """All at once, as each refusal takes its time."""
    host = "::1" if ":" in address else "127.0.0.1"

    def log_in(name):
        with socket.create_connection((host, port), timeout=30, source_address=(address, 0)) as client:
            lines = client.makefile("rb")
            assert lines.readline().startswith(b"* OK")
            quoted = name.replace("\\", "\\\\").replace('"', '\\"')
            client.sendall(f'a LOGIN "{quoted}" wrong\r\n'.encode())
            answer = lines.readline()
            assert answer.startswith(b"a NO"), answer

    with ThreadPoolExecutor(len(NAMES)) as together:
        list(together.map(log_in, NAMES))


def knock(command):
    """Connections stay for a second, and their greetings are read afterwards, as nothing may delay the next."""
    running = subprocess.Popen(command)
    open_ones, greeted_ones, refused, cut = [], 0, 0, 0

    def close_older_than(age):
        nonlocal greeted_ones, cut
        while open_ones and open_ones[0][0] <= time.monotonic() - age:
            with open_ones.pop(0)[1] as client:
                try:
                    client.settimeout(5)
                    good = client.recv(100).startswith(b"* OK")
                except OSError:
                    good = False
                greeted_ones, cut = greeted_ones + good, cut + (not good)

    # Half a second longer, so that it is seen that it goes on.
    end = None
    while end is None or time.monotonic() < end:
        if end is None and running.poll() is not None:
            end = time.monotonic() + 0.5
        try:
            open_ones.append((time.monotonic(), socket.create_connection(IMAP, timeout=5)))
        except OSError as error:
            refused += 1
            print(error)
        close_older_than(1)
        time.sleep(0.005)
    close_older_than(0)
    print(f"{greeted_ones} greeted, {refused} refused, {cut} cut before their greeting")
    assert running.returncode == 0, "the command failed"
    assert greeted_ones > 50 and refused == 0


match sys.argv[1:]:
    case ["whole"]:
        whole()
    case ["greeted", port]:
        greeted(int(port))
    case ["guess", port, address]:
        guess(int(port), address)
    case ["knock", *command]:
        knock(command)
    case _:
        sys.exit(__doc__)
