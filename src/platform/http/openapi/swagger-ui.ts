/** Serves the OpenAPI document at /docs/openapi.json, and Swagger UI for it at /docs. */
import type { INestApplication } from '@nestjs/common';
import { type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import { buildDocument } from './openapi-document.js';

/**
 * Hides what a newcomer does not need: Swagger's logo, the choice of the only server, the empty
 * "Links" column, and the headers of problem responses (the document lists them).
 */
const CSS = `
.swagger-ui .topbar { position: absolute; top: 0; right: 0; z-index: 1; background: none; }
.swagger-ui .parameters-col_description input { min-width: 400px; }
.swagger-ui .topbar .dark-mode-toggle button { color: #888; }
.swagger-ui .topbar .link, .swagger-ui .response-col_links { display: none; }
.swagger-ui .scheme-container .schemes { justify-content: flex-end; }
.swagger-ui .scheme-container .schemes > .schemes-server-container { display: none; }
.swagger-ui .info { margin: 30px 0 20px; }
.swagger-ui .info .info__license { font-size: 12px; opacity: 0.7; }
.swagger-ui .scheme-container { padding: 15px 0; }
.swagger-ui .response:is([data-code^="4"], [data-code^="5"])
  :is(.headers-wrapper, .response-control-media-type) { display: none; }
`;

/** @param version of this release */
export function serveSwaggerUi(app: INestApplication, version: string): void {
  let document: OpenAPIObject | undefined;
  // Built at the first request: startup need not wait for it.
  const documentFactory = (): OpenAPIObject => {
    document ??= buildDocument(app, version);
    return document;
  };
  SwaggerModule.setup('docs', app, documentFactory, {
    jsonDocumentUrl: 'docs/openapi.json',
    raw: ['json'],
    customSiteTitle: 'Holdfast API',
    customCss: CSS,
    swaggerOptions: { persistAuthorization: true, tryItOutEnabled: true },
  });
}
