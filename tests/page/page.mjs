// Opens the daemon's page in a real browser and looks at it as people do.
//
//   node page.mjs BROWSER URL SCREENSHOTS [TOKEN]
//
// Prints one JSON document: what axe-core found, what was said in the console, what was asked of the network, what the page
// shows. What that must be is for the test to say. The packages are found from the working directory.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [browserPath, url, screenshots, token] = process.argv.slice(2);
const installed = createRequire(join(process.cwd(), "package.json"));
const { chromium } = installed("playwright-core");
const axe = readFileSync(installed.resolve("axe-core/axe.min.js"), "utf8");

const looks = [
  { name: "light", colorScheme: "light", viewport: { width: 1440, height: 900 } },
  { name: "dark", colorScheme: "dark", viewport: { width: 1440, height: 900 } },
  { name: "narrow", colorScheme: "light", viewport: { width: 390, height: 844 } },
];
const text = (page, selector) => page.locator(selector).allInnerTexts();
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-gpu"] });
const report = { looks: {}, console: [], requests: [], dialogs: 0 };

async function open(look) {
  // axe-core is put into the page past its policy, which lets nothing in.
  const context = await browser.newContext({ colorScheme: look.colorScheme, viewport: look.viewport, bypassCSP: Boolean(look.audit), reducedMotion: "reduce" });
  const page = await context.newPage();
  page.on("console", message => { if (["error", "warning"].includes(message.type())) report.console.push(message.text()); });
  page.on("pageerror", error => report.console.push(String(error)));
  page.on("request", request => report.requests.push(request.method() + " " + request.url()));
  page.on("dialog", dialog => { report.dialogs++; dialog.dismiss(); });
  await page.goto(url);
  await page.waitForFunction(() => document.getElementById("as-of").textContent !== "" || !document.getElementById("unlock").hidden);
  // Nothing is shown before there is a token, which keys alone can give.
  if (await page.isVisible("#unlock")) {
    report.locked = await page.innerText("main");
    await page.focus("#unlock");
    await page.keyboard.press("Enter");
    await page.keyboard.type(token);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.getElementById("as-of").textContent !== "");
  }
  return { context, page };
}

async function audit(look) {
  const { context, page } = await open({ ...look, audit: true });
  await page.evaluate(axe);
  const found = () => page.evaluate(async () => (await window.axe.run(document, { resultTypes: ["violations"] })).violations);
  const violations = await found();
  // What asks for the token lies over all else.
  if (token && await page.locator("#running button").count()) {
    await page.locator("#running button").first().click();
    await page.locator("#ask[open]").waitFor();
    violations.push(...await found());
  }
  await context.close();
  return violations.map(v => ({ id: v.id, impact: v.impact, nodes: v.nodes.map(n => n.html.slice(0, 200)) }));
}

for (const look of looks) {
  const { context, page } = await open(look);
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (screenshots !== "-") await page.screenshot({ path: join(screenshots, `page-${look.name}.png`) });
  report.looks[look.name] = { overflow, background: await page.evaluate(() => getComputedStyle(document.body).backgroundColor), violations: await audit(look) };
  await context.close();
}

const { context, page } = await open(looks[0]);
report.title = await page.title();
report.state = await page.innerText("#state");
report.scope = await page.innerText("#scope");
report.problems = await text(page, "#problems li");
report.tables = await text(page, "#locations tbody tr");
report.running = await text(page, "#running li");
report.waiting = await text(page, "#queue tbody tr");
report.history = await text(page, "#history tbody tr");
report.injected = await page.evaluate(() => document.querySelectorAll("main img, main script, main b").length);
report.pwned = await page.evaluate(() => typeof window.pwned);
// With keys alone: everything that can be done is reached, in order, and shows where the focus is.
report.focused = [];
await page.evaluate(() => document.activeElement.blur());
for (let i = 0; i < 40; i++) {
  await page.keyboard.press("Tab");
  const at = await page.evaluate(() => {
    const node = document.activeElement;
    if (!node || node === document.body) return null;
    return { tag: node.tagName, name: node.getAttribute("aria-label") || node.textContent.trim() || node.id, outline: getComputedStyle(node).outlineStyle };
  });
  if (!at) break;
  report.focused.push(at);
}
// What is drawn anew leaves the focus where it is.
if (await page.isVisible("#find")) {
  await page.focus("#find");
  await page.keyboard.type("zzz-nothing");
  report.filtered = (await text(page, "#locations tbody tr")).length;
  const before = await page.evaluate(() => performance.getEntriesByType("resource").length);
  await page.waitForFunction(n => performance.getEntriesByType("resource").length > n + 1, before);
  report.kept = await page.evaluate(() => document.activeElement.id + " " + document.activeElement.value);
  await page.fill("#find", "");
}
report.spool = await page.innerText("#agent");
if (token && report.running.length) {
  await page.locator("#running button").first().focus();
  await page.keyboard.press("Enter");
  await page.keyboard.type("wrong");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("answer").textContent !== "");
  report.refused = await page.innerText("#answer");
  await page.locator("#running button").first().press("Enter");
  await page.keyboard.type(token);
  await page.keyboard.press("Enter");
  await page.waitForFunction(old => document.getElementById("answer").textContent !== old, report.refused);
  report.cancelled = await page.innerText("#answer");
  report.kept_token = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]) + document.getElementById("token").value);
}
await context.close();
await browser.close();
console.log(JSON.stringify(report));
