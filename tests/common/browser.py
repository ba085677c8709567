"""A page in headless Chromium, over its debugging pipe.

Arguments: the folder for its profile, and a JSON list of steps, each with one key:
  open URL        waits until the page is loaded
  size [W, H]     of the window
  dark BOOL       what the page is told of the user's wish
  scripts BOOL    whether pages may run any
  eval TEXT       an expression; its value is a result
  leave TEXT      an expression that loads another page, which is waited for; dialogs are accepted
  shot FILE       a PNG of the window; the result is how many colours it has, and how bright it is
Prints the results, and what the console said, as JSON.
"""

import base64, json, os, subprocess, sys, zlib

profile, steps = sys.argv[1], json.loads(sys.argv[2])


class Browser:
    def __init__(self):
        (child_reads, self.writes), (reads, child_writes) = os.pipe(), os.pipe()

        def descriptors():
            # Away from 3 and 4 first, which the pipes may have themselves.
            a, b = os.dup(child_reads), os.dup(child_writes)
            a, b = os.dup2(a, 50), os.dup2(b, 51)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars",
             f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
            preexec_fn=descriptors, close_fds=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(child_reads)
        os.close(child_writes)
        self.reads, self.buffer, self.number, self.session = os.fdopen(reads, "rb"), b"", 0, None
        self.events, self.console = [], []

    def message(self):
        while b"\0" not in self.buffer:
            more = self.reads.read1(65536)
            if not more:
                sys.exit("chromium has ended")
            self.buffer += more
        text, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(text)
        name, said = message.get("method"), message.get("params", {})
        if name == "Page.javascriptDialogOpening":
            self.console.append("dialog: " + said["message"])
            self.send("Page.handleJavaScriptDialog", accept=True)
        elif name == "Log.entryAdded":
            self.console.append(said["entry"]["text"])
        elif name:
            self.events.append(name)
        return message

    def send(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        return self.number

    def ask(self, method, **params):
        number = self.send(method, **params)
        while True:
            message = self.message()
            if message.get("id") == number:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']}")
                return message["result"]

    def until_loaded(self):
        while "Page.loadEventFired" not in self.events:
            self.message()

    def attach(self):
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log"]:
            self.ask(f"{domain}.enable")


def look(png):
    """How many colours a PNG of eight bits has, and its mean brightness from 0 to 255."""
    at, data, width, depth = 8, b"", 0, 0
    while at < len(png):
        length, kind = int.from_bytes(png[at:at + 4], "big"), png[at + 4:at + 8]
        body = png[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, depth = int.from_bytes(body[:4], "big"), {2: 3, 6: 4}[body[9]]
        elif kind == b"IDAT":
            data += body
        at += length + 12
    data, stride = zlib.decompress(data), width * depth
    before, colours, light, count = bytearray(stride), set(), 0, 0
    for start in range(0, len(data), stride + 1):
        how, row = data[start], bytearray(data[start + 1:start + 1 + stride])
        for i in range(stride):
            a = row[i - depth] if i >= depth else 0
            b, c = before[i], before[i - depth] if i >= depth else 0
            if how == 1:
                row[i] = (row[i] + a) & 255
            elif how == 2:
                row[i] = (row[i] + b) & 255
            elif how == 3:
                row[i] = (row[i] + (a + b) // 2) & 255
            elif how == 4:
                p = a + b - c
                row[i] = (row[i] + min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]) & 255
        for i in range(0, stride, depth * 4):
            colours.add(bytes(row[i:i + 3]))
            light += sum(row[i:i + 3])
            count += 3
        before = row
    return [len(colours), light // count]


browser, results = Browser(), []
browser.attach()
for step in steps:
    (name, value), = step.items()
    browser.events.clear()
    if name == "open":
        browser.ask("Page.navigate", url=value)
        browser.until_loaded()
    elif name == "size":
        browser.ask("Emulation.setDeviceMetricsOverride", width=value[0], height=value[1],
                    deviceScaleFactor=1, mobile=value[0] < 600)
    elif name == "dark":
        features = [{"name": "prefers-color-scheme", "value": "dark" if value else "light"}]
        browser.ask("Emulation.setEmulatedMedia", features=features)
    elif name == "scripts":
        browser.ask("Emulation.setScriptExecutionDisabled", value=not value)
    elif name in ("eval", "leave"):
        answer = browser.ask("Runtime.evaluate", expression=value, returnByValue=True)
        if name == "leave":
            browser.until_loaded()
        else:
            results.append(answer["result"].get("value"))
    elif name == "shot":
        png = base64.b64decode(browser.ask("Page.captureScreenshot", format="png")["data"])
        with open(value, "wb") as file:
            file.write(png)
        results.append(look(png))
browser.session = None
browser.send("Browser.close")
browser.process.wait(20)
print(json.dumps({"results": results, "console": browser.console}))
