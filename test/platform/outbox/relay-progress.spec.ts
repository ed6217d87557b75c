/** When a relay, or a partition, counts as stalled. */
import { expect, it } from '@jest/globals';
import { MAX_STALL_MS, RelayProgress } from '../../../src/platform/outbox/relay-progress.js';

/** A progress whose clock the test moves. */
function createProgress(): { progress: RelayProgress; pass: (ms: number) => void } {
  let now = 1_000;
  const progress = new RelayProgress(() => now);
  return {
    progress,
    pass: (ms) => {
      now += ms;
    },
  };
}

it('a relay that finishes no pass is stalled', () => {
  const { progress, pass } = createProgress();

  pass(MAX_STALL_MS + 1_000);

  expect(progress.stallReason).toMatch(/has not finished a pass for 61 s/);
  progress.recordPass();
  expect(progress.stallReason).toBeUndefined();
});

it('a partition whose first event stays the same is stalled, whoever has locked it', () => {
  const { progress, pass } = createProgress();
  progress.recordFirst(3, 17);
  progress.recordFirst(5, 18);

  pass(MAX_STALL_MS + 1);
  progress.recordPass();
  progress.recordFirst(3, 17);
  progress.recordFirst(5, 19);

  expect(progress.stalledPartitions).toEqual([3]);
  expect(progress.stallReason).toBe(
    'events wait in partitions that have not moved for a minute: 3',
  );
});

it.each([
  ['whose events are published', (progress: RelayProgress) => progress.recordFirst(3, null)],
  ['behind a broker that takes no messages', (progress: RelayProgress) => progress.reset()],
])('a partition %s is not stalled', (_, settle) => {
  const { progress, pass } = createProgress();
  progress.recordFirst(3, 17);

  pass(MAX_STALL_MS + 1);
  progress.recordPass();
  settle(progress);

  expect(progress.stallReason).toBeUndefined();
});
