// Shows the API document of this very server.
SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#ui",
  deepLinking: true,
  validatorUrl: null,
});
