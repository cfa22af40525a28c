// Swagger UI for whoever is signed in: calls go with the session and its CSRF token.
"use strict";

SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: document.getElementById("swagger-ui").dataset.schema,
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor(request) {
    const token = document.querySelector('meta[name="csrf-token"]').content;
    if (!request.headers.Authorization) request.headers["X-CSRFToken"] = token;
    return request;
  },
});
