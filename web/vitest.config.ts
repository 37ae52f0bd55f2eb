import { defineConfig } from "vitest/config";

// `npm run figures` sets FIGURES to the number of runs of each measurement.
const include = process.env.FIGURES === undefined ? ["test/**/*.test.ts"] : ["test/figures.ts"];

// One file at a time: each starts nodes and browsers of its own.
export default defineConfig({ test: { include, testTimeout: 20_000, fileParallelism: false } });
