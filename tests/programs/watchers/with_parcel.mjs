// Prints what @parcel/watcher tells of a directory tree: `ready`, then lines of a kind and a path within the tree.
import { relative } from "node:path";
import watcher from "@parcel/watcher";

const [, , root] = process.argv;
const kinds = { create: "created", update: "modified", delete: "deleted" };

await watcher.subscribe(root, (error, events) => {
  if (error) throw error;
  for (const { type, path } of events) console.log(kinds[type], relative(root, path));
});
console.log("ready");
