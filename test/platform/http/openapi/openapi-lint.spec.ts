/** The OpenAPI document is valid OpenAPI 3.1: Spectral's rules find nothing. */
import { describe, expect, it } from '@jest/globals';
import { Spectral } from '@stoplight/spectral-core';
import { oas } from '@stoplight/spectral-rulesets';
import { generateOpenApi } from '../../../../scripts/docs/openapi.js';

/** Spectral resolves and checks every reference, for minutes on a busy machine. */
const TIMEOUT_MS = 240_000;

const DOCUMENT = JSON.parse(await generateOpenApi()) as Record<string, unknown>;

async function lint(document: Record<string, unknown>): Promise<string[]> {
  const spectral = new Spectral();
  spectral.setRuleset({ extends: [oas as never] });
  const findings = await spectral.run(document);
  return findings.map(({ code, path, message }) => `${code} ${path.join('.')}: ${message}`);
}

describe('Spectral', () => {
  it(
    'finds nothing in the document',
    async () => {
      expect(await lint(DOCUMENT)).toEqual([]);
    },
    TIMEOUT_MS,
  );

  it('finds what is missing in a document without info and paths', async () => {
    const findings = await lint({ ...DOCUMENT, info: {}, paths: {} });
    expect(findings).toContainEqual(expect.stringContaining('info'));
  });
});
