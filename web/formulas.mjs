/* Set the formulas of all pages with KaTeX, so that readers need neither JavaScript nor a network for them. */

import fs from "node:fs";
import path from "node:path";
import katex from "katex";

const folder = process.argv[2];
const plain = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'" };
let count = 0;
for (const name of fs.readdirSync(folder).filter((file) => file.endsWith(".html"))) {
  const file = path.join(folder, name), page = fs.readFileSync(file, "utf8");
  const set = page.replace(/<span class="math (inline|display)">(.*?)<\/span>/gs, (_, kind, formula) => {
    count++;
    const source = formula.replace(/&(amp|lt|gt|quot|#x27);/g, (entity) => plain[entity]);
    return katex.renderToString(source, { displayMode: kind === "display", throwOnError: true, strict: "ignore" });
  });
  fs.writeFileSync(file, set);
}
console.log(`${count} formulas set`);
