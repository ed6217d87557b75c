/** The process of one attack: `attacker.js <number of the attack> <url>`. See attacks.ts. */
import { ATTACKS, type Outcome } from './attacks.js';

/** What the process is told, and what it answers. */
export type Order = 'begin' | 'end';
export type Report = { readonly ready: true } | { readonly outcome: Outcome };

const [, , index = '', url = ''] = process.argv;
const attack = ATTACKS[Number(index)];
if (!attack) throw new Error(`There is no attack ${index}`);

const run = await attack.prepare(url);
const controller = new AbortController();
const outcome: Outcome = {};
const send = (report: Report): void => void process.send?.(report);

process.on('message', (order: Order) => {
  if (order === 'end') {
    controller.abort();
  } else {
    void run({ url, signal: controller.signal, outcome }).then(() => {
      process.send?.({ outcome } satisfies Report, () => process.exit(0));
    });
  }
});
process.on('disconnect', () => process.exit(0));
send({ ready: true });
