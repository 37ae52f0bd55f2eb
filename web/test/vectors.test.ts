import { describe, test } from "vitest";
import { VECTOR_CHECKS } from "./vector-checks.js";

describe("vectors of the protocol", () => {
  for (const [name, run] of VECTOR_CHECKS) test(name, async () => run());
});
