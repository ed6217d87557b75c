/** The cost of validation: bounded, however many errors a body has. */
import { describe, expect, it } from '@jest/globals';
import { Integer, List } from '../../../../src/platform/http/validation/fields.js';
import { StrictValidationPipe } from '../../../../src/platform/http/validation/validation.pipe.js';
import type { Problem } from '../../../../src/platform/http/problems/problem.js';

class Item {
  @Integer({ min: 0, max: 9 })
  quantity: number;
}

class Basket {
  @List(() => Item, { min: 1, max: 100 })
  items: Item[];
}

const MAX_VALIDATED_ITEMS = 200;
const MAX_ERRORS = 50;

async function problemOf(body: object): Promise<Problem> {
  const pipe = new StrictValidationPipe();
  try {
    await pipe.transform(body, { type: 'body', metatype: Basket });
  } catch (error) {
    return error as Problem;
  }
  throw new Error('the body was accepted');
}

const errorsIn = ({ details }: Problem): unknown[] => details.extensions?.errors as unknown[];

describe('StrictValidationPipe', () => {
  it('reads at most 200 items of a list', async () => {
    let itemsRead = 0;
    const item = new Proxy(
      {},
      {
        ownKeys: () => {
          itemsRead++;
          return [];
        },
      },
    );
    await problemOf({ items: Array(80_000).fill(item) });
    expect(itemsRead).toBeGreaterThan(0);
    expect(itemsRead).toBeLessThanOrEqual(MAX_VALIDATED_ITEMS);
  });

  it.each([
    ['80 000 empty items', { items: Array(80_000).fill({}) }],
    ['120 000 items that are not objects', { items: Array(120_000).fill(1) }],
    ['20 000 unknown properties', { items: [manyProperties(20_000)] }],
  ])('reports at most 50 errors for %s', async (_, body) => {
    const errors = errorsIn(await problemOf(body));
    expect(errors.length).toBeGreaterThan(0);
    expect(errors.length).toBeLessThanOrEqual(MAX_ERRORS);
  });
});

function manyProperties(count: number): object {
  return Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, 1]));
}
