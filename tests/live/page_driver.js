/*
 * Drives Chromium for test_page.py: a JSON command a line on standard input, a JSON answer a line
 * on standard output. The browser ends with the input.
 */
"use strict";

const { mkdtempSync, rmSync } = require("node:fs");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const readline = require("node:readline");
const { chromium } = require("playwright-core");

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync"];

async function main() {
  const profile = mkdtempSync(join(tmpdir(), "tpage-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium", headless: true, args: FLAGS,
    viewport: { width: 1200, height: 900 },
  });
  let page = null;
  let complaints = [];
  const commands = {
    async open({ url, width, height, scheme, motion }) {
      if (page) await page.close();
      complaints = [];
      page = await context.newPage();
      await page.emulateMedia({ colorScheme: scheme || "light", reducedMotion: motion || "reduce" });
      await page.setViewportSize({ width: width || 1200, height: height || 900 });
      page.on("console", (m) => m.type() === "error" && complaints.push(m.text()));
      page.on("pageerror", (error) => complaints.push(String(error)));
      page.on("dialog", (dialog) => {
        complaints.push("dialog: " + dialog.message());
        dialog.dismiss();
      });
      await page.goto(url);
    },
    evaluate: ({ code }) => page.evaluate(code),
    press: ({ key }) => page.keyboard.press(key),
    type: ({ text }) => page.keyboard.type(text),
    shot: ({ path }) => page.screenshot({ path, fullPage: true }).then(() => null),
    complaints: () => complaints,
  };
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
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}

main().catch((error) => {
  process.stdout.write(JSON.stringify({ error: String(error) }) + "\n");
  process.exit(1);
});
