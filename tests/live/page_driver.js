/*
 * Drives Chromium for test_page.py: a JSON command a line on standard input, a JSON answer a line
 * on standard output. The browser ends with the input.
 *
 * It is spoken to in its own DevTools protocol, over a pipe: nothing is needed but what Debian has.
 */
"use strict";

const { spawn } = require("node:child_process");
const { mkdtempSync, rmSync, writeFileSync } = require("node:fs");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const readline = require("node:readline");

const FLAGS = ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
               "--disable-quic", "--no-first-run", "--no-default-browser-check",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               "--disable-dev-shm-usage", "--hide-scrollbars", "about:blank"];
const LOAD_MS_MAX = 30000;
const KEYS = { Tab: { code: 9 }, Enter: { code: 13, text: "\r" } };

/* Requests and events as JSON with a NUL behind each: file 3 to the browser, 4 from it. */
class Browser {
  constructor(profile) {
    this.process = spawn(process.env.CHROMIUM || "/usr/bin/chromium",
                         ["--user-data-dir=" + profile, ...FLAGS],
                         { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.waiting = new Map();
    this.count = 0;
    this.hear = () => {};
    let rest = "";
    this.process.stdio[4].setEncoding("utf8");
    this.process.stdio[4].on("data", (data) => {
      const messages = (rest + data).split("\0");
      rest = messages.pop();
      for (const text of messages) this.take(JSON.parse(text));
    });
    this.ended = new Promise((done) => this.process.on("exit", done));
  }

  take(message) {
    const waiter = this.waiting.get(message.id);
    if (!waiter) {
      this.hear(message);
      return;
    }
    this.waiting.delete(message.id);
    if (message.error) waiter.fail(new Error(message.error.message));
    else waiter.done(message.result);
  }

  ask(method, params = {}, sessionId = undefined) {
    const id = ++this.count;
    this.process.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    return new Promise((done, fail) => this.waiting.set(id, { done, fail }));
  }
}

/* One page at a time, and what it complained about. */
class Page {
  static async open(browser, { url, width, height, scheme, motion }) {
    const page = new Page();
    page.browser = browser;
    page.complaints = [];
    page.width = width || 1200;
    page.target = (await browser.ask("Target.createTarget", { url: "about:blank" })).targetId;
    page.session = (await browser.ask("Target.attachToTarget",
                                      { targetId: page.target, flatten: true })).sessionId;
    const loaded = new Promise((done, fail) => {
      const timer = setTimeout(() => fail(new Error("the page does not load")), LOAD_MS_MAX);
      page.onload = () => {
        clearTimeout(timer);
        done();
      };
    });
    browser.hear = (message) => page.hear(message);
    for (const domain of ["Page", "Runtime", "Log"]) await page.ask(domain + ".enable");
    await page.ask("Emulation.setEmulatedMedia", { features: [
      { name: "prefers-color-scheme", value: scheme || "light" },
      { name: "prefers-reduced-motion", value: motion || "reduce" }] });
    await page.ask("Emulation.setFocusEmulationEnabled", { enabled: true });
    await page.size(height || 900);
    await page.ask("Page.navigate", { url });
    await loaded;
    return page;
  }

  ask(method, params) {
    return this.browser.ask(method, params, this.session);
  }

  size(height) {
    return this.ask("Emulation.setDeviceMetricsOverride",
                    { width: this.width, height, deviceScaleFactor: 1, mobile: false });
  }

  hear({ sessionId, method, params }) {
    if (sessionId !== this.session) return;
    if (method === "Page.loadEventFired") this.onload();
    if (method === "Log.entryAdded" && params.entry.level === "error") {
      this.complaints.push(params.entry.text);
    }
    if (method === "Runtime.consoleAPICalled" && params.type === "error") {
      this.complaints.push(JSON.stringify(params.args));
    }
    if (method === "Runtime.exceptionThrown") {
      this.complaints.push(params.exceptionDetails.exception?.description ?? "an exception");
    }
    if (method === "Page.javascriptDialogOpening") {
      this.complaints.push("dialog: " + params.message);
      this.ask("Page.handleJavaScriptDialog", { accept: false });
    }
  }

  async evaluate(expression) {
    const answer = await this.ask("Runtime.evaluate",
                                  { expression, awaitPromise: true, returnByValue: true });
    if (answer.exceptionDetails) {
      throw new Error(answer.exceptionDetails.exception?.description ?? "an exception");
    }
    return answer.result.value;
  }

  async press(key) {
    const { code, text } = KEYS[key];
    const what = { key, code: key, windowsVirtualKeyCode: code };
    await this.ask("Input.dispatchKeyEvent", { type: "keyDown", text, ...what });
    await this.ask("Input.dispatchKeyEvent", { type: "keyUp", ...what });
  }

  /* All of it, however long it is. */
  async shot(path) {
    const size = (await this.ask("Page.getLayoutMetrics")).cssContentSize;
    const { data } = await this.ask("Page.captureScreenshot", { captureBeyondViewport: true,
      clip: { x: 0, y: 0, width: this.width, height: size.height, scale: 1 } });
    writeFileSync(path, Buffer.from(data, "base64"));
  }

  close() {
    this.browser.hear = () => {};
    return this.browser.ask("Target.closeTarget", { targetId: this.target });
  }
}

async function main() {
  const profile = mkdtempSync(join(tmpdir(), "tpage-"));
  const browser = new Browser(profile);
  let page = null;
  const commands = {
    async open(how) {
      if (page) await page.close();
      page = await Page.open(browser, how);
    },
    evaluate: ({ code }) => page.evaluate(code),
    press: ({ key }) => page.press(key),
    type: ({ text }) => page.ask("Input.insertText", { text }).then(() => null),
    shot: ({ path }) => page.shot(path),
    complaints: () => page.complaints,
  };
  await browser.ask("Browser.getVersion");
  process.stdout.write('{"ready":true}\n');
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    let answer;
    try {
      answer = { result: (await commands[command.do](command)) ?? null };
    } catch (error) {
      answer = { error: String(error) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  await browser.ask("Browser.close");
  await browser.ended;
  rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
}

main().catch((error) => {
  process.stdout.write(JSON.stringify({ error: String(error) }) + "\n");
  process.exit(1);
});
