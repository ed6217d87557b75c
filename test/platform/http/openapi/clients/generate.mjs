/**
 * Generates clients from an OpenAPI document: `node generate.mjs <document.json>`, into the current
 * folder. `api.ts` has the types of openapi-typescript; `hey/` is the client of hey-api, which
 * checks responses with zod.
 */
import { writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { createClient } from '@hey-api/openapi-ts';
import openapiTypescript, { astToString } from 'openapi-typescript';

const document = resolve(process.argv[2]);
await writeFile('api.ts', astToString(await openapiTypescript(pathToFileURL(document))));
await createClient({
  input: document,
  output: { path: 'hey', importFileExtension: '.js' },
  logs: { level: 'warn', file: false },
  plugins: [
    '@hey-api/client-fetch',
    '@hey-api/typescript',
    'zod',
    // Not requests: the generated check of headers looks for them before they are there.
    { name: '@hey-api/sdk', validator: { response: 'zod' } },
  ],
});
