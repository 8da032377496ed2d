#!/usr/bin/env node
const built = new URL('../dist/src/cli/main.js', import.meta.url);
const [major] = process.versions.node.split('.');
if (Number(major) < 20) {
  process.stderr.write(`error: quest needs Node 20 or newer, this is ${process.version}\n`);
  process.exit(3);
}
try {
  const { main } = await import(built.href);
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (error?.code !== 'ERR_MODULE_NOT_FOUND') throw error;
  process.stderr.write(
    `error: ${error.message.split('\n')[0]}\nhint: run \`npm ci\`, or \`npm run build:ts\` in a checkout\n`,
  );
  process.exitCode = 3;
}
