//! SecretProviderClass of the Azure provider to object specs, pure.
