/** The repository's only definition of a percentile: pages of measurements can be compared. */

/**
 * Nearest rank: the smallest value that at least `share` of the values do not exceed.
 * @param share from 0 to 1, e.g. 0.99
 * @returns NaN for no values
 */
export function percentile(values: ArrayLike<number>, share: number): number {
  const sorted = Float64Array.from(values).sort();
  const rank = Math.max(1, Math.ceil(share * sorted.length));
  return sorted[rank - 1] ?? NaN;
}

export const median = (values: ArrayLike<number>): number => percentile(values, 0.5);
