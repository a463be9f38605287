// Prints what chokidar tells of a directory tree: `ready`, then lines of a kind and a path within the tree.
import { relative } from "node:path";
import { watch } from "chokidar";

const [, , root] = process.argv;
const kinds = { add: "created", addDir: "created", change: "modified", unlink: "deleted", unlinkDir: "deleted" };

watch(root, { ignoreInitial: true })
  .on("all", (kind, path) => console.log(kinds[kind], relative(root, path)))
  .on("ready", () => console.log("ready"));
