// Print the licences of the packages in a bundle: node licences.mjs METAFILE, in the folder of node_modules.
// METAFILE is what esbuild --metafile writes.
import { readFileSync, readdirSync } from "node:fs";

const { inputs } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const packages = new Set();
for (const path of Object.keys(inputs)) {
  const found = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
  if (found) packages.add(found[1]);
}
console.log("page.js contains code of these packages:");
for (const name of [...packages].sort()) {
  const folder = `node_modules/${name}`;
  const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} has no licence file`);
  console.log(`\n== ${name} ${version} (${license})\n\n${readFileSync(`${folder}/${file}`, "utf8").trim()}`);
}
