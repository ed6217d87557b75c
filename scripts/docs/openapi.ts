/**
 * `npm run openapi`: writes docs/openapi.json, the document that the service shows under /docs. The modules are only looked
 * at (Nest's preview mode), so it needs no database and nothing of the environment.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { VERSION } from '../src/app.js';
import { AppModule } from '../src/app.module.js';
import { loadConfig } from '../src/config.js';
import { buildDocument } from '../src/http/openapi-document.js';
import { command, isStarted, readArguments } from './command.js';

const FILE = 'docs/openapi.json';

/** The OpenAPI document as docs/openapi.json holds it: indented by two, keys as generated, a newline at the end. */
export async function generateOpenApi(): Promise<string> {
  const app = await NestFactory.create(AppModule.with(loadConfig({})), new FastifyAdapter(), {
    preview: true,
    logger: false,
    abortOnError: false,
  });
  return `${JSON.stringify(buildDocument(app, VERSION), null, 2)}\n`;
}

if (isStarted(import.meta.url)) {
  await command('openapi', async () => {
    readArguments(`npm run openapi (writes ${FILE})`, []);
    const text = await generateOpenApi();
    await mkdir(dirname(resolve(FILE)), { recursive: true });
    await writeFile(FILE, text);
    console.log(`Wrote ${FILE}, ${(text.length / 1024).toFixed(0)} KiB`);
    return 0;
  });
}
