/** Generates docs/openapi.json, the document that the service shows under /docs. */
import { VERSION } from '../../src/app.js';
import { buildDocument } from '../../src/platform/http/openapi/openapi-document.js';
import { createPreviewApp } from './preview-app.js';

/** The document as JSON, indented by two spaces, with a newline at the end. */
export async function generateOpenApi(): Promise<string> {
  const document = buildDocument(await createPreviewApp(), VERSION);
  return `${JSON.stringify(document, null, 2)}\n`;
}
