/**
 * Comparisons within one run. The ways that are compared alternate from round to round, so that
 * whatever else the machine does disturbs all of them alike: their ratios count, not their times.
 */

/** One thing that is measured: milliseconds, a rate, whatever its caller makes of it. */
export type Measurement<T> = () => Promise<T>;

/**
 * Runs every way once in each round. One more round before the first warms up what compiles and
 * connects lazily; its results are dropped.
 * @returns the results of each way, in the order of the rounds
 */
export async function alternate<T>(
  rounds: number,
  ways: Readonly<Record<string, Measurement<T>>>,
): Promise<Map<string, T[]>> {
  const results = new Map<string, T[]>(Object.keys(ways).map((name) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    for (const [name, measure] of Object.entries(ways)) {
      const result = await measure();
      if (round > 0) results.get(name)?.push(result);
    }
  }
  return results;
}

/** Milliseconds that the work took. */
export async function timeOf(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}
